"""Each experiment's YAML, one step, on data that has its modalities; the demo, small."""

import html
import json
import re
import subprocess
import sys
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
    masked_note = masked(note, {"COVID-19, ARDS", "E.Coli"})
    assert not re.search("sars|covid|corona|ards|coli", masked_note, re.I)
    assert masked_note.endswith("A 45-year-old with [finding] and a normal heart.")


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


# ---- the demo ----------------------------------------------------------------------------------------------------------------

OURS = re.compile(
    r"\[ *\d+ s\] .+|With 400 cases and 30 epochs this takes .+|It leaves in .+"
)  # what the demo itself says
LEFT_BEHIND = {
    "archive",
    "cohort",
    "cohort.vault",
    "embedding",
    "index.html",
    "metrics.json",
    "run",
    "source",
}


def foreign(lines):
    """Lines that are not the demo's own, those of the fit left out (tests of `mmvae fit` read them)."""
    fit = [n for n, line in enumerate(lines) if "s] fit, " in line or "s] embed and index" in line]
    outside = lines if len(fit) < 2 else [*lines[: fit[0]], *lines[fit[1] :]]
    return [line for line in outside if line.strip() and not OURS.fullmatch(line)]


def test_a_foreign_line_is_found():
    planted = "/lib/nibabel/x.py:3: UserWarning: try nibabel 6"
    fit = ["[    1 s] fit, 2 threads", "Epoch 0/0", "[    2 s] embed and index"]
    assert foreign([planted, *fit]) == foreign([*fit, planted]) == [planted]
    assert foreign(fit) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder and the lines, errors among them, of a demo of 24 patients and one epoch."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    done = subprocess.run(
        [sys.executable, "-u", str(ROOT / "experiments" / "phantom" / "demo.py"), "--out", str(out), "--cases", "24", "--epochs", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return out, done.stdout.splitlines()


def test_the_demo_says_first_how_long_it_takes_and_what_it_leaves_and_leaves_just_that(demo):
    out, lines = demo
    assert "about 8 minutes on 2 idle cores, 12 at most" in lines[0]
    assert {path.name for path in out.iterdir()} == LEFT_BEHIND
    assert all(name in lines[1] for name in LEFT_BEHIND)
    assert (out / "run" / "best.ckpt").is_file()
    assert len(list((out / "source" / "studies").iterdir())) == 1


def test_no_other_library_writes_into_the_demo_s_log(demo):
    assert foreign(demo[1]) == []


def test_the_demo_s_page_has_its_queries_pictures_and_numbers_and_its_commands_work(demo, capsys):
    out, _ = demo
    page = (out / "index.html").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert page.count("<section><h2>Query ") == 4
    assert page.count("<div class=case>") == 4 * 5
    assert page.count("data:image/png;base64,") > 4 * 5  # pictures of every case, and the plots
    assert f"{metrics['full']['mAP']['value']:.3f}" in page
    commands = html.unescape(page.split("<pre>")[1].split("</pre>")[0]).splitlines()
    assert [command.split()[1] for command in commands] == ["search", "show", "search"]
    for command in commands:
        assert (
            main(
                [
                    *command.split()[1:],
                    *(["--out", str(out.parent / "show.html")] if "show" in command else []),
                ]
            )
            == 0
        )
    assert "native" in (out.parent / "show.html").read_text()
