"""Each experiment's YAML, one step, on data that has its modalities."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.covid import masked, write_source
from mmvae.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    p for p in (ROOT / "experiments").rglob("*.yaml") if "model" in (yaml.safe_load(p.read_text()) or {})
)


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Fifteen made-up patients in the layout of tcga_lgg_mri, scanned by the experiment's own MAP."""
    folder, rng = tmp_path_factory.mktemp("brains"), np.random.default_rng(0)
    (folder / "source" / "cases").mkdir(parents=True)
    columns = "patient,COCCluster,tumor_location,laterality,gender,age_at_initial_pathologic,histological_type,neoplasm_histologic_grade"
    rows = [columns]
    for n in range(15):
        make = lambda: rng.integers(0, 255, (20, 32, 32)).astype(np.uint8)  # noqa: E731
        arrays = {"flair": make(), "t1pre": make(), "t1post": make()}
        arrays.pop("t1pre" if n == 2 else "t1post" if n == 3 else "none", None)
        np.savez(folder / "source" / "cases" / f"P_{n}.npz", **arrays)
        rows.append(
            f"P_{n},{n % 3 + 1},{(2, 5, 6)[n % 3]},{n % 2 + 1},{n % 2 + 1},{30 + n},{n % 3 + 1},{n % 2 + 1}"
        )
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    assert main(["scan", str(folder / "source"), "--out", str(folder / "cohort"), "--map", str(ROOT / "experiments/tcga_lgg/map.yaml"),
                 "--records", str(folder / "table.csv"), "--folds", "3", "--jobs", "1"]) == 0  # fmt: skip
    return folder / "cohort"


def tables_of(folder):
    """Fifteen made-up rows in the layout of glioma_radiomics, scanned by the experiment's own MAP."""
    (folder / "source").mkdir()
    names = [f"HISTO_{view}_{n}" for view in ("T1", "T1Gd", "T2", "FLAIR") for n in range(3)]
    rows = [
        ",".join([f"P{n}", "GBM" if n % 2 else "LGG", *(str(0.1 * n + k) for k in range(len(names)))])
        for n in range(15)
    ]
    table = folder / "source" / "radiomics.csv"
    table.write_text("\n".join([",".join(["ID", "cohort", *names]), *rows]) + "\n")
    assert main(["scan", str(folder / "source"), "--out", str(folder / "cohort"), "--map", str(ROOT / "experiments/glioma_radiomics/map.yaml"),
                 "--records", str(table), "--folds", "3", "--jobs", "1"]) == 0  # fmt: skip
    return folder / "cohort"


def chests_of(folder):
    """Fifteen made-up chests in the layout of covid_cxr, prepared and scanned as its experiment says."""
    data, rng = folder / "data", np.random.default_rng(0)
    (data / "images").mkdir(parents=True)
    columns = "image,patientid,offset,sex,age,finding,temperature,pO2_saturation,leukocyte_count,view,modality,clinical_notes,finding_group"
    rows = [columns]
    for n in range(15):
        Image.fromarray(rng.integers(0, 255, (50 + n, 60)).astype(np.uint8)).save(
            data / "images" / f"{n}.jpg"
        )
        disease = ("COVID-19", "Klebsiella", "No Finding")[n % 3]
        rows.append(
            f"{n}.jpg,{n},{n},{'MF'[n % 2]},{40 + n},{disease},37.{n},,,PA,X-ray,Cough; {disease} was found.,{disease}"
        )
    (data / "metadata.csv").write_text("\n".join(rows) + "\n")
    assert write_source(data, folder / "source") == 15
    notes = "".join(path.read_text() for path in (folder / "source" / "notes").iterdir())
    assert "[finding] was found" in notes and not re.search("covid|klebsiella", notes, re.I)
    assert main(["scan", str(folder / "source"), "--out", str(folder / "cohort"), "--map", str(ROOT / "experiments/covid_cxr/map.yaml"),
                 "--records", str(folder / "source" / "table.csv"), "--folds", "3", "--jobs", "1"]) == 0  # fmt: skip
    return folder / "cohort"


def test_masking_finds_every_name_that_is_planted_and_spares_the_rest():
    note = "SARS-CoV-2 RT-PCR was positive; E. coli grew. Covid19 and coronavirus disease. A 45-year-old with ARDS and a normal heart."
    got = masked(note, {"COVID-19, ARDS", "E.Coli"})
    assert not re.search("sars|covid|corona|ards|coli", got, re.I)
    assert got.endswith("A 45-year-old with [finding] and a normal heart.")


MADE_UP = {"glioma_radiomics": tables_of, "covid_cxr": chests_of}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "experiments")))
def test_one_step_of(config, phantom, brains, tmp_path):
    assert config.read_text().startswith("# mmvae "), "an experiment opens with the command that runs it"
    if config.parent.name in MADE_UP:
        brains = MADE_UP[config.parent.name](tmp_path)
    cohort, more = (phantom, []) if config.parent.name == "phantom" else (brains, ["--data.fold", "0"])
    assert main(["fit", "-c", str(config), "--data.cohort", str(cohort), "--data.batch_size", "4", "--trainer.max_steps", "1", "--trainer.max_epochs", "1",
                 "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "1", "--trainer.default_root_dir", str(tmp_path), *more]) == 0  # fmt: skip


def test_there_are_experiments():
    assert len(CONFIGS) >= 2
