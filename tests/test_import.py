"""`import mmvae` offers the ten names that a notebook needs, and imports none of them before it is used."""

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mmvae

ROOT = Path(__file__).parents[1]
# Name → where it is defined, written out by hand.
NAMES = {
    "Cohort": "mmvae.cohort", "Modality": "mmvae.modality", "CaseData": "mmvae.data.module", "MMVAE": "mmvae.model.module",
    "PoE": "mmvae.latent.fusion", "MoE": "mmvae.latent.fusion", "MoPoE": "mmvae.latent.fusion",
    "Index": "mmvae.retrieval.index", "search": "mmvae.retrieval.search", "evaluate": "mmvae.evaluation.evaluate",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_the_thing_itself(name):
    thing = getattr(mmvae, name)
    assert thing.__module__ == NAMES[name]
    assert inspect.isfunction(thing) if name in ("search", "evaluate") else inspect.isclass(thing)


def test_the_names_are_listed_and_no_other_is_offered():
    assert sorted(mmvae.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(mmvae))
    with pytest.raises(AttributeError, match="has no attribute 'Moe'"):
        getattr(mmvae, "Moe")  # noqa: B009 - spelled out, it would be an error of types


def imported_by(line: str) -> set[str]:
    """What a line imports in a fresh process, beyond the standard library."""
    code = f"import sys; before = set(sys.modules)\n{line}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name for name in done.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names}


def test_importing_mmvae_imports_nothing_else_of_it_and_nothing_heavy():
    assert imported_by("import mmvae; dir(mmvae)") == {"mmvae"}
    assert {"mmvae.latent.fusion", "torch"} <= imported_by(
        "import mmvae; mmvae.PoE"
    )  # the look finds what is there


def test_the_version_is_the_package_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert mmvae.__version__ == project["version"] == "0.2.0"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mmvae.case:Cohort", "mmvae.cohort:Cohort"),
        ("mmvae.case:write_cohort", "mmvae.cohort:write_cohort"),
        ("mmvae.case:Split", "mmvae.splits:Split"),
        ("mmvae.case:Splits", "mmvae.splits:Splits"),
        ("mmvae.case:draw_splits", "mmvae.splits:draw_splits"),
        ("mmvae.case:InputError", "mmvae.errors:InputError"),
        ("mmvae.modality:view_of", "mmvae.views:view_of"),
        ("mmvae.retrieval.evaluate:evaluate", "mmvae.evaluation.evaluate:evaluate"),
        ("mmvae.volume:VolumeEncoder", "mmvae.blocks.networks:VolumeEncoder"),
        ("mmvae.volume:resample", "mmvae.blocks.geometry:resample"),
        ("mmvae.volume:montage", "mmvae.blocks.pictures:montage"),
    ],
)
def test_what_moved_is_found_at_its_old_address(old, new):
    def at(address: str):
        module, name = address.split(":")
        return getattr(importlib.import_module(module), name)

    assert at(old) is at(new)


def test_a_name_that_never_stood_at_an_old_address_is_refused():
    from mmvae import case, modality

    for module in (case, modality):
        with pytest.raises(AttributeError, match="has no attribute 'never'"):
            getattr(module, "never")  # noqa: B009 - spelled out, it would be an error of types
