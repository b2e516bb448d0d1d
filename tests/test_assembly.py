"""One study assembled by itself is the case that a whole scan gives; text, place and skipping are decided once for both doors."""

import json
import shutil
from pathlib import Path

import pydicom
import pytest

from mmvae.case import Asset
from mmvae.cohort import Cohort, plain_case
from mmvae.identity.vault import Vault
from mmvae.ingest.annotations import Annotations, read_annotations
from mmvae.ingest.assembly import Assembler
from mmvae.ingest.claims import claims_here
from mmvae.ingest.patients import patients_of
from mmvae.ingest.point import frame_of
from mmvae.ingest.reading import read_studies
from mmvae.ingest.scan import scan_studies
from mmvae.ingest.skipped import SkippedFile
from mmvae.ingest.source import walk
from mmvae.ingest.table.rows import RecordColumn
from mmvae.ingest.texts import Cleaning, read_text, write_text_asset
from mmvae.ingest.workers import Workers
from mmvae.phantom.dicom import write_phantom_studies

KEY = bytes.fromhex("5c" * 32)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("assembly") / "source"
    write_phantom_studies(2, 6, out, jobs=1)
    return out


def test_one_study_added_by_itself_is_the_case_of_a_whole_scan(source, tmp_path):
    """As a listener adds what has arrived: into a cohort that is there, with the fields of its card."""
    tables = (source / "records.csv", source / "reports", source / "lesions.csv", source / "map.yaml")
    vault = Vault(tmp_path / "v", KEY)
    scan_studies(source / "studies", tmp_path / "whole", *tables, vault=vault, ask=claims_here)
    whole = Cohort.load(tmp_path / "whole")
    root = tmp_path / "cohort"
    shutil.copytree(tmp_path / "whole", root)
    wanted = whole.cases[1]
    shutil.rmtree(root / "cases" / wanted.case_id)  # it has not arrived yet

    annotations = read_annotations(*tables, override=None)
    assert annotations.mapping is not None
    columns = {
        name: RecordColumn(annotations.mapping.record[name]["column"], field)
        for name, field in whole.card.fields.items()
        if name in annotations.mapping.record
    }
    other = Vault(tmp_path / "w", KEY)
    files, _ = walk(source / "studies", tmp_path / "unpacked", other)
    (tmp_path / "spool").mkdir()
    with Workers(1) as workers:
        studies, _ = read_studies(files, tmp_path / "spool", workers, lambda items, total: items)
    (study,) = (s for s in studies.values() if other.case(s.uid) == wanted.case_id)
    patients, remarks = patients_of([study], other)
    assembler = Assembler(root, other, annotations, claims_here)
    (case,), study_files = assembler.assemble(study, patients[study.uid], dict(enumerate(files)), columns)
    assert json.dumps(plain_case(case), sort_keys=True) == json.dumps(plain_case(wanted), sort_keys=True)
    assert (remarks, study_files.skipped) == ([], ())
    for asset in case.assets:
        assert (root / asset.uri).read_bytes() == (whole.root / asset.uri).read_bytes()


# ---- decided in one place ---------------------------------------------------------------------------------------------


def volume(uri: str, kind: str | None, voxels: int, form: str = "volume") -> Asset:
    return Asset(form, uri, "0", kind, facts={"voxels": voxels})


CENTRES = {name: (float(n), 0.0, 0.0) for n, name in enumerate("abcde")}


@pytest.mark.parametrize(
    ("lesion", "assets", "reference", "wanted"),
    [
        ((9.0, 9.0, 9.0), [volume("a", "t1", 5)], ("t1",), ((9.0, 9.0, 9.0), "lesion")),
        (None, [volume("a", "t1", 9), volume("b", "t2", 5)], ("t2", "t1"), (CENTRES["b"], "t2")),
        (None, [volume("a", "t2", 5), volume("b", "t2", 9)], ("t2",), (CENTRES["b"], "t2")),
        (None, [volume("a", "t1", 5), volume("b", "t2", 9), volume("c", None, 99)], (), (CENTRES["b"], "t2")),
        (None, [volume("a", None, 5), volume("b", None, 9)], ("t1",), (CENTRES["b"], None)),
        (None, [volume("a", "x", 99, "image"), volume("b", None, 9)], (), (CENTRES["b"], None)),
        (None, [volume("a", "x", 99, "image"), volume("b", "t1", 9)], ("x",), (CENTRES["a"], "x")),
        (None, [volume("z", "t1", 9)], (), (None, None)),
        (None, [], (), (None, None)),
    ],
)
def test_the_point_is_the_lesion_else_the_reference_else_the_largest_volume(
    lesion, assets, reference, wanted
):
    assert frame_of(lesion, assets, CENTRES, reference) == wanted


def test_a_text_loses_names_naming_lines_and_dates_whichever_way_it_came(source, tmp_path):
    words = "Radiologist: Dr Only Here\nDoe, seen on 2020-02-28, has a cyst.\n"
    (tmp_path / "cases").mkdir()
    asset = write_text_asset(tmp_path, "cases/0.txt", words, Cleaning(("DOE",), -58), ("f1",), "report")
    text = (tmp_path / asset.uri).read_text()
    assert text == "[removed]\n[removed], seen on 2020-01-01, has a cyst.\n"

    from mmvae.cli import main

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "doe.txt").write_text(words)
    (tmp_path / "table.csv").write_text("Patient\ndoe\n")
    (tmp_path / "map.yaml").write_text("key: Patient\nassets: [{kind: report, file: '{Patient}.txt'}]\n")
    command = [
        "scan",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "c"),
        "--map",
        str(tmp_path / "map.yaml"),
    ]
    assert main([*command, "--records", str(tmp_path / "table.csv"), "--jobs", "1"]) == 0
    (case,) = Cohort.load(tmp_path / "c").cases
    scanned = (tmp_path / "c" / case.assets[0].uri).read_text()
    assert scanned.startswith("[removed]\n[removed], seen on 20")
    assert "2020-02-28" not in scanned


def test_a_text_in_another_encoding_is_left_out_by_both_doors(tmp_path):
    from mmvae.ingest.skipped import Unusable

    (tmp_path / "r.txt").write_bytes("Müller has a cyst".encode("latin-1"))
    with pytest.raises(Unusable, match="not UTF-8"):
        read_text(tmp_path / "r.txt")


def test_a_study_that_no_worker_could_write_is_left_out_file_by_file_with_its_series(source, tmp_path):
    study = next(iter(sorted((source / "studies").iterdir())))
    vault = Vault(tmp_path / "v", KEY)
    files, _ = walk(study, tmp_path / "unpacked", vault)
    (tmp_path / "spool").mkdir()
    with Workers(1) as workers:
        studies, _ = read_studies(files, tmp_path / "spool", workers, lambda items, total: items)
    ((uid, read),) = studies.items()
    patients, _ = patients_of([read], vault)
    task = Assembler(tmp_path, vault, Annotations(), claims_here).task(
        read, patients[uid], dict(enumerate(files))
    )
    left = task.nothing_written("it crashed")
    assert {s.file for s in left.skipped} == {f.name for f in files}
    assert {s.code for s in left.skipped} == {"limit"}
    assert left.assets == ()
    for item in left.skipped:
        path = study / vault.known["files"][item.file]
        assert left.series[item.series] == pydicom.dcmread(path).SeriesInstanceUID


def test_a_file_is_skipped_for_a_reason_of_the_closed_list_only():
    with pytest.raises(ValueError, match="'because' is none of"):
        SkippedFile("f1", None, "because", "it is so")
