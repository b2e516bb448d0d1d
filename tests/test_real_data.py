"""Real, licensed volumes of differing grids: scanned, fitted for two epochs, embedded, searched."""

import json

import pytest

from mmvae.cli import main
from mmvae.cohort import Cohort

GRID = "{shape: [8, 20, 20], spacing_mm: [14, 9, 9]}"


def chain(folder, source, mapping, rows, roles):
    """Scan → two epochs → embed → index → search; returns the cohort and what the search found."""
    (folder / "map.yaml").write_text(mapping)
    (folder / "table.csv").write_text(rows)
    assert (
        main(
            [
                "scan",
                str(source),
                "--out",
                str(folder / "cohort"),
                "--map",
                str(folder / "map.yaml"),
                "--records",
                str(folder / "table.csv"),
                "--jobs",
                "1",
            ]
        )
        == 0
    )
    cohort = Cohort.load(folder / "cohort")
    case = [c.patient for c in cohort.cases]
    # A smoke cohort of one or two patients has no test patient: all are trained on, and nothing is claimed.
    (folder / "cohort" / "splits.json").write_text(json.dumps({"train": case, "validation": [], "test": []}))
    (folder / "fit.yaml").write_text(
        "model:\n  latent_dim: 4\n  modalities:\n" + "".join(f"    {role}: {spec}\n" for role, spec in roles.items())
        + f"data: {{cohort: {folder / 'cohort'}, batch_size: 2}}\n"
        f"trainer: {{max_epochs: 2, limit_val_batches: 0, accelerator: cpu, enable_progress_bar: false, default_root_dir: {folder / 'run'}}}\n"
    )  # fmt: skip
    assert main(["fit", "-c", str(folder / "fit.yaml")]) == 0
    assert (
        main(
            [
                "embed",
                "--checkpoint",
                str(folder / "run" / "last.ckpt"),
                "--cohort",
                str(folder / "cohort"),
                "--out",
                str(folder / "e"),
            ]
        )
        == 0
    )
    assert main(["index", "build", str(folder / "e"), "--out", str(folder / "i")]) == 0
    assert (
        main(["search", "--index", str(folder / "i"), "--case", cohort.cases[0].case_id, "-k", "1", "--json"])
        == 0
    )
    return cohort


def role(cls, **fields):
    more = "".join(f", {k}: {v}" for k, v in fields.items())
    return f"{{class_path: {cls}, init_args: {GRID[:-1]}{more}}}}}"


def test_two_patients_of_ms_mri_with_unlike_grids(real_data, tmp_path, capsys):
    mapping = """
key: Patient
assets:
  - {kind: t1, file: "{T1}"}
  - {kind: t1, file: "{T1POST}", facts: {contrast_agent: true}}
  - {kind: t2, file: "{T2}"}
  - {kind: flair, file: "{FLAIR}"}
record: {age_years: Age}
reference: [flair]
"""
    cross = "cross_sectional/patient07/{}_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
    raw = "longitudinal_raw/patient03/study2_{}.nii.gz"
    rows = "Patient,Age,T1,T1POST,T2,FLAIR\n" + ",".join(
        [
            "seven",
            "40",
            cross.format("T1"),
            cross.format("T1POST"),
            cross.format("T2"),
            "cross_sectional/patient07/FLAIR_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz",
        ]
    )
    rows += (
        "\n"
        + ",".join(["three", "", raw.format("T1W"), "none", raw.format("T2W"), raw.format("FLAIR")])
        + "\n"
    )
    roles = {
        "t1": role("T1"),
        "t1_post": role("T1", contrast_agent="true"),
        "t2": role("T2"),
        "flair": role("FLAIR"),
    }
    cohort = chain(tmp_path, real_data / "ms_mri", mapping, rows, roles)
    assert sorted(len(c.assets) for c in cohort.cases) == [3, 4]
    assert '"neighbours": [{"case_id"' in capsys.readouterr().out


def test_one_glioma_with_four_sequences(real_data, tmp_path, capsys):
    mapping = """
key: Patient
assets:
  - {kind: t1, file: "{Patient}/raw_bet/{Patient}_t1_bet.nii.gz"}
  - {kind: t1, file: "{Patient}/raw_bet/{Patient}_t1c_bet.nii.gz", facts: {contrast_agent: true}}
  - {kind: t2, file: "{Patient}/raw_bet/{Patient}_t2_bet.nii.gz"}
  - {kind: flair, file: "{Patient}/raw_bet/{Patient}_fla_bet.nii.gz"}
reference: [flair]
"""
    roles = {
        "t1": role("T1"),
        "t1_post": role("T1", contrast_agent="true"),
        "t2": role("T2"),
        "flair": role("FLAIR"),
    }
    cohort = chain(tmp_path, real_data / "glioma_nifti", mapping, "Patient\nTCGA-DU-7294\n", roles)
    assert len(cohort.cases[0].assets) == 4
    assert "TCGA" not in capsys.readouterr().out
    skipped = (tmp_path / "cohort" / "skipped.jsonl").read_text().splitlines()
    assert {json.loads(line)["code"] for line in skipped} == {
        "not_mapped"
    }  # the segmentations, which no asset names


def test_one_spinal_cord_with_five_axis_orders(real_data, tmp_path):
    b_values = [float(x) for x in (real_data / "spinal_cord_mri" / "dmri" / "bvals.txt").read_text().split()]
    mapping = f"""
key: Patient
assets:
  - {{kind: t1, file: "t1/t1w.nii.gz"}}
  - {{kind: t2, file: "t2/t2.nii.gz"}}
  - {{kind: dwi, file: "dmri/dmri.nii.gz", facts: {{DiffusionBValue: {b_values}}}}}
reference: [t2]
"""
    roles = {"t1": role("T1"), "t2": role("T2"), "dwi": role("DWI")}
    cohort = chain(tmp_path, real_data / "spinal_cord_mri", mapping, "Patient\nerrsm_30\n", roles)
    assert {a.kind for a in cohort.cases[0].assets} == {"t1", "t2", "dwi"}


def test_tcga_lgg_has_77_patients_and_only_the_sequences_that_exist(real_data, tmp_path):
    import csv
    from pathlib import Path

    source = real_data / "tcga_lgg_mri"
    mapping = Path(__file__).parents[1] / "experiments" / "tcga_lgg" / "map.yaml"
    assert (
        main(
            [
                "scan",
                str(source),
                "--out",
                str(tmp_path / "c"),
                "--map",
                str(mapping),
                "--records",
                str(source / "clinical.csv"),
                "--folds",
                "5",
                "--jobs",
                "2",
            ]
        )
        == 0
    )
    cohort = Cohort.load(tmp_path / "c")
    rows = list(csv.DictReader((source / "clinical.csv").open()))
    assert len(cohort.cases) == len(rows) == 77
    for contrast, column in ((False, "has_t1pre"), (True, "has_t1post")):
        found = sum(
            a.kind == "t1" and a.facts.get("contrast_agent") is contrast
            for c in cohort.cases
            for a in c.assets
        )
        assert found == sum(int(r[column]) for r in rows)
    assert not any("TCGA" in line for line in (tmp_path / "c" / "cases.jsonl").read_text().splitlines())
    assert cohort.card.answers.fields == ("histological_type", "grade")


@pytest.mark.parametrize(
    ("file", "shape", "spacing_mm"),
    [
        ("ms_mri/longitudinal_raw/patient03/study2_T1W.nii.gz", (256, 256, 48), None),
        ("ms_mri/longitudinal_raw/patient03/study2_T2W.nii.gz", (348, 384, 44), None),
        ("ms_mri/longitudinal_raw/patient03/study2_FLAIR.nii.gz", (320, 320, 48), None),
        ("glioma_nifti/TCGA-DU-7294/raw_bet/TCGA-DU-7294_t2_bet.nii.gz", (240, 240, 155), 1.0),
    ],
)
def test_a_volume_keeps_the_size_and_spacing_that_its_readme_states(
    real_data, tmp_path, file, shape, spacing_mm
):
    import nibabel

    path = real_data / file
    (tmp_path / "map.yaml").write_text(f"key: Patient\nassets: [{{kind: t2, file: {path.name}}}]\n")
    (tmp_path / "table.csv").write_text("Patient\nsomebody\n")
    tables = ["--map", str(tmp_path / "map.yaml"), "--records", str(tmp_path / "table.csv")]
    assert main(["scan", str(path.parent), "--out", str(tmp_path / "c"), *tables, "--jobs", "1"]) == 0
    ((asset,),) = (case.assets for case in Cohort.load(tmp_path / "c").cases)
    stored = nibabel.load(tmp_path / "c" / asset.uri)
    assert stored.shape == shape
    if spacing_mm:
        assert stored.header.get_zooms() == pytest.approx((spacing_mm,) * 3)
