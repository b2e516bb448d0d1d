"""`import mmvae` offers the ten names that a notebook needs, and imports none of them before it is used."""

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
