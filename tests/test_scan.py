"""`mmvae scan` of NIfTI, .npz, pictures and text led by a table: what is kept, what is left out, and who stays unknown."""

import csv
import json
import os
import stat
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.identity.vault import Vault, vault_path

MAP = """
key: Patient
assets:
  - {kind: t1, file: "{Patient}.npz#t1", spacing_mm: [1, 2, 5], assumed: true}
  - {kind: t2, file: "{Patient}/t2.nii.gz"}
  - {kind: photo, file: "{Patient}.png"}
  - {kind: report, file: "{Patient}.txt"}
record: {age_years: Age, sex: Sex, grade: Grade}
labels: {location: Where}
label_source: {location: reader}
terms: [Side]
lesion: {x_mm: X, y_mm: Y, z_mm: Z}
reference: [t2, t1]
relevance: [{gain: 1, same: [location]}]
answers: {kinds: [report], terms: true, fields: [grade]}
"""
NAMES = [f"MUSTERMANN_{n:03d}" for n in range(8)]


@pytest.fixture
def source(tmp_path):
    """Eight patients whose names are planted in file names, folder names, headers, text and table."""
    root, rng = tmp_path / "source", np.random.default_rng(0)
    root.mkdir()
    rows = []
    for n, name in enumerate(NAMES):
        arrays = (
            {"t1": rng.integers(0, 255, (6, 10, 12)).astype(np.uint8)} if n != 3 else {"other": np.zeros(2)}
        )
        np.savez(root / f"{name}.npz", **arrays)
        if n != 5:
            (root / name).mkdir()
            image = nibabel.Nifti1Image(
                rng.integers(0, 900, (9, 8, 5)).astype(np.int16),
                np.array([[0, 2.0, 0, 4], [-3.0, 0, 0, 5], [0, 0, 4.0, 6], [0, 0, 0, 1]]),
            )
            image.header["descrip"] = name.encode()
            image.header["db_name"] = name[:18].encode()
            nibabel.save(image, root / name / "t2.nii.gz")
        Image.fromarray(rng.integers(0, 255, (7, 9), dtype=np.uint8)).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"Patient {name}. A cyst of {name.lower()}.")
        rows.append({"Patient": name, "Age": 40 + n if n != 2 else "#DIV/0!", "Sex": "FM"[n % 2], "Grade": n % 3, "Where": "left" if n % 2 else "right" if n else "",
                     "Side": "left;midline" if n == 1 else "left", "X": 1.5 if n == 4 else "", "Y": 2 if n == 4 else "", "Z": 3 if n == 4 else ""})  # fmt: skip
    with (tmp_path / "table.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "map.yaml").write_text(MAP)
    return root


def scan(source, out="cohort", *more):
    folder = source.parent
    return main(
        [
            "scan",
            str(source),
            "--out",
            str(folder / out),
            "--map",
            str(folder / "map.yaml"),
            "--records",
            str(folder / "table.csv"),
            "--jobs",
            "1",
            *more,
        ]
    )


def everything_below(folder: Path) -> bytes:
    names = "\n".join(str(p.relative_to(folder)) for p in folder.rglob("*")).encode()
    import gzip

    return names + b"".join(
        gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    )


def test_a_table_becomes_a_cohort_with_missing_parts_missing(source):
    assert scan(source) == 0
    cohort = Cohort.load(source.parent / "cohort")
    assert len(cohort.cases) == 8
    kinds = sorted(sorted(a.kind for a in c.assets) for c in cohort.cases)
    assert kinds.count(["photo", "report", "t1", "t2"]) == 6
    assert kinds.count(["photo", "report", "t2"]) == 1
    assert kinds.count(["photo", "report", "t1"]) == 1
    assert sum("age_years" in c.record for c in cohort.cases) == 7
    assert sum("location" in c.labels for c in cohort.cases) == 7
    assert any(c.terms == ("Side: left", "Side: midline") for c in cohort.cases)
    assert cohort.card.answers.fields == ("grade",)
    assert cohort.card.assumed["t1"]["spacing_mm"] == [1.0, 2.0, 5.0]
    assert [c.frame_from for c in cohort.cases].count("lesion") == 1
    assert [c.frame_from for c in cohort.cases].count("t1") == 1


def test_voxels_and_millimetres_survive(source):
    scan(source)
    cohort = Cohort.load(source.parent / "cohort")
    vault = Vault.open(vault_path(source.parent / "cohort"))
    for case in cohort.cases:
        name = vault.known["cases"][case.case_id]
        for asset in case.assets:
            if asset.kind == "t2":
                a, b = nibabel.load(source / name / "t2.nii.gz"), nibabel.load(cohort.root / asset.uri)
                np.testing.assert_array_equal(a.get_fdata(), b.get_fdata())
                np.testing.assert_allclose(a.affine, b.affine, atol=1e-5)
            if asset.kind == "t1":
                stored = nibabel.load(cohort.root / asset.uri)
                with np.load(source / f"{name}.npz") as held:
                    np.testing.assert_array_equal(stored.get_fdata().transpose(2, 1, 0), held["t1"])
                np.testing.assert_allclose(stored.header.get_zooms(), (1, 2, 5))


def test_no_name_is_in_the_cohort_and_the_same_search_finds_it_in_source_and_vault(source, capsys):
    scan(source)
    out, err = capsys.readouterr()
    cohort, vault = source.parent / "cohort", source.parent / "cohort.vault"
    for name in NAMES:
        for form in (name.encode(), name.lower().encode()):
            assert form not in everything_below(cohort)
        assert name.encode() in everything_below(source)
        assert name.encode() in everything_below(vault)
        assert name not in out + err


def test_the_vault_is_the_owner_s_alone_and_says_where_an_f_is(source, capsys):
    scan(source)
    vault = source.parent / "cohort.vault"
    assert stat.S_IMODE(vault.stat().st_mode) == 0o700
    assert stat.S_IMODE((vault / "key").stat().st_mode) == 0o600
    case = Cohort.load(source.parent / "cohort").cases[0]
    capsys.readouterr()
    assert main(["whereis", case.assets[0].files[0], "--cohort", str(source.parent / "cohort")]) == 0
    assert (source / capsys.readouterr().out.strip().split("#")[0]).exists()


def test_one_bad_file_costs_itself_and_every_file_is_accounted_for_once(source):
    (source / NAMES[0] / "t2.nii.gz").write_bytes((source / NAMES[0] / "t2.nii.gz").read_bytes()[:60])
    (source / f"{NAMES[1]}.png").write_bytes(b"not a picture")
    (source / "stray.dat").write_bytes(b"x")
    assert scan(source) == 0
    root = source.parent / "cohort"
    skipped = [json.loads(line) for line in (root / "skipped.jsonl").read_text().splitlines()]
    codes = sorted(s["code"] for s in skipped)
    assert codes == [
        "not_image",
        "not_mapped",
        "not_mapped",
        "truncated",
    ]  # one .npz holds no array that the MAP names
    assert len(Cohort.load(root).cases) == 8
    known = [f.split("#")[0] for c in Cohort.load(root).cases for a in c.assets for f in a.files] + [
        s["file"] for s in skipped
    ]
    assert len(known) == len(set(known))
    files = Vault.open(vault_path(root)).known["files"]
    assert {files[k].split("#")[0] for k in known} == {
        p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()
    }


def test_strict_ends_with_4_and_no_case_with_3(source):
    (source / "stray.dat").write_bytes(b"x")
    assert scan(source, "a", "--strict") == 4
    (source.parent / "map.yaml").write_text(
        MAP.replace("{Patient}", "{Patient}_x").split("record:")[0] + "key2: 1"
    )
    assert scan(source, "b") == 1
    (source.parent / "map.yaml").write_text("key: Patient\nassets: [{kind: t1, file: '{Patient}.nii'}]\n")
    assert scan(source, "c") == 3
    assert not (source.parent / "c").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.replace("key: Patient", "key: Nobody"), "has no column 'Nobody'"),
        (lambda m: m.replace("kind: t1,", "kind: 3,"), "assets[0].kind is 3, expected text"),
        (lambda m: m.replace("[1, 2, 5]", "[1, 2]"), "spacing_mm is [1, 2], expected three positive numbers"),
        (lambda m: m.replace("reader", "magic"), "label_source.location is 'magic'"),
        (lambda m: m.replace("same: [location]", "same: [grade]"), "relevance names 'grade'"),
        (lambda m: m + "colour: red\n", "unknown field 'colour'"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_by_field(source, change, message, capsys):
    path = source.parent / "map.yaml"
    path.write_text(change(path.read_text()))
    assert scan(source) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith(("mmvae: --map: map.yaml: ", "mmvae: --records: table.csv: "))
    assert not (source.parent / "cohort").exists()


def test_two_rows_of_one_case_are_refused_by_line_and_not_by_name(source, capsys):
    table = source.parent / "table.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert scan(source) == 1
    err = capsys.readouterr().err
    assert "lines 2 and 10" in err
    assert NAMES[0] not in err


def test_an_empty_folder_and_an_existing_cohort_are_refused(source, capsys):
    empty = source.parent / "empty"
    empty.mkdir()
    folder = source.parent
    assert (
        main(
            [
                "scan",
                str(empty),
                "--out",
                str(folder / "x"),
                "--map",
                str(folder / "map.yaml"),
                "--records",
                str(folder / "table.csv"),
            ]
        )
        == 1
    )
    assert "is empty" in capsys.readouterr().err
    assert scan(source) == 0
    assert scan(source) == 1


def test_a_full_disk_leaves_nothing_half_written(source, monkeypatch, capsys):
    import mmvae.ingest.table.scan as module

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_nifti", full)
    assert scan(source) == 1
    assert "No space left" in capsys.readouterr().err
    assert sorted(os.listdir(source.parent)) == ["map.yaml", "source", "table.csv"]


def test_ctrl_c_leaves_nothing_half_written_and_ends_with_130(source, monkeypatch):
    import mmvae.ingest.table.scan as module

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_nifti", stop)
    assert scan(source) == 130
    assert sorted(os.listdir(source.parent)) == ["map.yaml", "source", "table.csv"]


def test_the_same_key_gives_the_same_bytes(source):
    assert scan(source, "a") == 0
    os.environ["MMVAE_VAULT"] = str(source.parent / "a.vault")
    try:
        assert scan(source, "b") == 0
        assert scan(source, "c", "--jobs", "2") == 0
    finally:
        del os.environ["MMVAE_VAULT"]
    assert (
        everything_below(source.parent / "a")
        == everything_below(source.parent / "b")
        == everything_below(source.parent / "c")
    )
