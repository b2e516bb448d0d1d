"""What several tests share: a small phantom cohort, a model trained on it, real data where `$MMVAE_DATA` names it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from mmvae.cohort import Cohort
from mmvae.phantom.cohort import write_phantom_cohort

ROOT = Path(__file__).parents[1]
# The same examples on every machine and in every run, however slow; a failing one is printed and needs no database.
settings.register_profile("mmvae", deadline=None, derandomize=True, database=None)
settings.load_profile("mmvae")
_USED = []
# Programs that some tests compare with or work through, and the Debian package that holds each.
PACKAGES = {"strace": "strace", "dcm2niix": "dcm2niix", "dciodvfy": "dicom3tools", "dcmdump": "dcmtk"}


def require(*programs: str) -> None:
    """Skips the test where one of the programs is not installed; fails it where `CI=true`, since there nothing may be missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    packages = " ".join(PACKAGES[program] for program in missing)
    message = f"this test needs {' and '.join(missing)}, not installed here (apt-get install {packages})"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message}; with CI=true a missing program is a failure", pytrace=False)
    pytest.skip(message)


def pytest_runtest_setup(item):
    """`@pytest.mark.needs("strace", …)`: looked for before any fixture is set up."""
    for marker in item.iter_markers("needs"):
        require(*marker.args)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """Forty digital patients: 24 training, 6 validation, 10 test."""
    path = tmp_path_factory.mktemp("phantom") / "cohort"
    write_phantom_cohort(40, 3, path, (24, 6, 10), jobs=2)
    return path


@pytest.fixture(scope="session")
def cohort(phantom) -> Cohort:
    """The same, read."""
    return Cohort.load(phantom)


SMALL = {"about": "lesion", "shape": [6, 16, 16], "spacing_mm": [12.0, 8.0, 8.0]}


def small_yaml(phantom: Path) -> str:
    """YAML of a small model of every role, as a user would write it."""
    grid = "{about: lesion, shape: [6, 16, 16], spacing_mm: [12, 8, 8]"
    return f"""
seed_everything: 0
model:
  latent_dim: 8
  modalities:
    t1: {{class_path: T1, init_args: {grid}}}}}
    t2: {{class_path: T2, init_args: {grid}}}}}
    contrast: {{class_path: Contrast, init_args: {grid}}}}}
    clinical: Clinical
    report: Report
    terms: Terms
  answer_roles: [report, terms]
  visible: {{terms: 0.25}}
  weights: {{terms: 100}}
  groups: {{images: [t1, t2, contrast]}}
data: {{cohort: {phantom}, batch_size: 8}}
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
"""


@pytest.fixture(scope="session")
def trained(phantom, tmp_path_factory) -> Path:
    """The best checkpoint of two epochs, fitted by the command."""
    from mmvae.cli import main

    folder = tmp_path_factory.mktemp("run")
    (folder / "fit.yaml").write_text(small_yaml(phantom))
    assert (
        main(["fit", "-c", str(folder / "fit.yaml"), "--trainer.default_root_dir", str(folder / "run")]) == 0
    )
    return folder / "run" / "best.ckpt"


@pytest.fixture(scope="session")
def embedding(trained, phantom, tmp_path_factory):
    """The phantom's forty cases, embedded by the trained model."""
    from mmvae.cli import main
    from mmvae.retrieval.embedding import Embedding

    out = tmp_path_factory.mktemp("embedding") / "e"
    assert main(["embed", "--checkpoint", str(trained), "--cohort", str(phantom), "--out", str(out)]) == 0
    return Embedding.load(out)


@pytest.fixture
def index(embedding, tmp_path):
    """A fresh index of them."""
    from mmvae.retrieval.index import Index

    return Index.build(embedding, tmp_path / "index")


@pytest.fixture
def part(embedding, tmp_path):
    """`part(rows, name)`: the folder of an embedding of some of the cases."""

    def write(rows: list[int], name: str) -> Path:
        out = tmp_path / name
        shutil.copytree(embedding.root, out)
        meta = json.loads((out / "meta.json").read_text())
        meta["facts"] = [meta["facts"][row] for row in rows]
        (out / "meta.json").write_text(json.dumps(meta))
        with np.load(out / "experts.npz") as kept:
            np.savez(out / "experts.npz", **{name: kept[name][rows] for name in kept.files})
        return out

    return write


@pytest.fixture
def release_0_1(tmp_path) -> Path:
    """A cohort with its vault, a checkpoint, an embedding and an index as release 0.1 wrote them."""
    folder = tmp_path / "release_0_1"
    shutil.copytree(Path(__file__).parent / "fixtures" / "release_0_1", folder)
    for room in ("embedding", "index"):
        shutil.copyfile(folder / "model.ckpt", folder / room / "model.ckpt")
    return folder


@pytest.fixture
def real_data(request) -> Path:
    """Folder of real, licensed data; a test that needs it is skipped, saying so, where `$MMVAE_DATA` is unset."""
    named = os.environ.get("MMVAE_DATA")
    if not named:
        pytest.skip("MMVAE_DATA is not set: this test needs the real data")
    if not Path(named).is_dir():
        pytest.fail("MMVAE_DATA names no folder")
    _USED.append(request.node.nodeid)
    return Path(named)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{len(_USED)} tests used real data")
