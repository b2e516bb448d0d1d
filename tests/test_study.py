"""A folder of studies → a cohort: no identifier leaves, a broken file costs itself, a stopped scan goes on."""

import datetime
import gzip
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items

from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.identity.vault import Vault, pseudonym
from mmvae.ingest.scan import scan_studies
from mmvae.ingest.workers import TaskFailure, Workers
from mmvae.phantom.dicom import write_phantom_studies

BIN = Path(sys.executable).parent / "mmvae"


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """Six digital patients as DICOM studies, with records, reports and lesion points."""
    out = tmp_path_factory.mktemp("studies") / "source"
    write_phantom_studies(6, 5, out, jobs=2)
    return out


def beside(source: Path) -> list[str]:
    tables = {
        "--records": "records.csv",
        "--reports": "reports",
        "--lesions": "lesions.csv",
        "--map": "map.yaml",
    }
    return [part for flag, name in tables.items() for part in (flag, str(source / name))]


@pytest.fixture(scope="session")
def scanned(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scanned") / "cohort"
    assert main(["scan", str(source / "studies"), "--out", str(out), *beside(source), "--jobs", "2"]) == 0
    return out


def bytes_below(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---- the phantom's way in ---------------------------------------------------------------------------------------------


def test_the_scanned_phantom_is_the_written_one(source, scanned, tmp_path):
    """The same patients written as NIfTI without DICOM between: voxels, places, b-values and times must come back."""
    from mmvae.phantom.cohort import write_phantom_cohort

    write_phantom_cohort(6, 5, tmp_path / "direct", (4, 1, 1), jobs=1)
    direct, found = Cohort.load(tmp_path / "direct"), Cohort.load(scanned)
    by_point = {tuple(np.round(case.lesion.point_mm, 2)): case for case in found.cases}
    assert len(by_point) == len(direct.cases) == 6
    for case in direct.cases:
        other = by_point[tuple(np.round(case.lesion.point_mm, 2))]
        assert other.record.items() >= case.record.items()
        assert {k: str(v) for k, v in case.labels.items()} == dict(other.labels)
        assert set(case.terms) == set(other.terms)
        kinds = lambda c: sorted((a.kind, a.facts.get("fat_saturated")) for a in c.assets)  # noqa: E731
        assert kinds(case) == kinds(other)
        for asset in case.assets:
            if asset.type == "text":
                continue
            (mine,) = [
                a
                for a in other.assets
                if a.kind == asset.kind and a.facts.get("fat_saturated") == asset.facts["fat_saturated"]
            ]
            a, b = nibabel.load(direct.root / asset.uri), nibabel.load(found.root / mine.uri)
            np.testing.assert_allclose(a.affine, b.affine, atol=1e-3)
            x, y = np.asarray(a.dataobj, float), np.asarray(b.dataobj, float)
            factor = y.max() / x.max()  # Philips' floating-point value is the stored one times a constant
            np.testing.assert_allclose(y, factor * x, rtol=1e-5, atol=1e-3)
            assert asset.facts.get("DiffusionBValue") == mine.facts.get("DiffusionBValue")
            if "PhaseTime_s" in asset.facts:
                np.testing.assert_allclose(asset.facts["PhaseTime_s"], mine.facts["PhaseTime_s"], atol=0.11)


def test_every_vendor_s_series_get_their_kind(scanned):
    for case in Cohort.load(scanned).cases:
        assert all(asset.kind is not None and asset.confidence >= 0.8 for asset in case.assets)


@pytest.mark.needs("dciodvfy", "dcm2niix")
def test_dciodvfy_finds_no_error_and_dcm2niix_reads_all(source, tmp_path):
    for folder in sorted(p for p in (source / "studies").rglob("*") if p.is_dir() and any(p.glob("*.dcm"))):
        done = subprocess.run(["dciodvfy", folder / "0001.dcm"], capture_output=True, text=True, check=False)
        assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    study = sorted((source / "studies").iterdir())[0]
    subprocess.run(
        ["dcm2niix", "-b", "n", "-z", "n", "-f", "%s", "-o", tmp_path, study], check=True, capture_output=True
    )
    assert len(list(tmp_path.glob("*.nii"))) >= 3


@pytest.mark.needs("dciodvfy")
def test_dciodvfy_finds_a_planted_error(source, tmp_path):
    path = next((source / "studies").rglob("*.dcm"))
    data = pydicom.dcmread(path)
    del data.Modality
    data.save_as(tmp_path / "broken.dcm")
    done = subprocess.run(["dciodvfy", tmp_path / "broken.dcm"], capture_output=True, text=True, check=False)
    assert "Error" in done.stdout + done.stderr


# ---- identity ---------------------------------------------------------------------------------------------------------

MARK = re.compile(rb"ZQ[0-9]{3}[A-Z]{4}")


class Marks:
    """Three hundred marks; each place asks for the next, and the same place gets the same one throughout a study."""

    def __init__(self):
        self.given: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        return self.given.setdefault(place, f"ZQ{len(self.given) % 1000:03d}MARK")


def pdf_of(text: str) -> bytes:
    """A one-page PDF, written by hand (ISO 32000-1, 7.5)."""
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream), b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % p for p in places)
    return out + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % table


LENGTH = {"AE": 16, "SH": 16, "LO": 64, "PN": 64, "ST": 200, "LT": 200, "UT": 200, "UC": 200}


def mark_header(data: Dataset, mark: Marks, series: str) -> None:
    """Marks in every element of a text VR that the dictionary knows and a file may hold, in private ones and nested ones."""
    from pydicom.datadict import DicomDictionary, keyword_for_tag

    keep = {"SpecificCharacterSet", "Manufacturer", "ImageComments"}  # where kinds and b-values stand
    described = {"SeriesDescription", "ProtocolName", "SequenceName"}
    chosen = [
        t
        for t, entry in sorted(DicomDictionary.items())
        if entry[0] in LENGTH and entry[1] == "1" and not entry[3] and 0x0008 <= t >> 16 <= 0x0040
    ]
    for tag in chosen:
        name = keyword_for_tag(tag)
        if not name or name in keep or tag >> 16 == 0x0002:
            continue
        if name in described:
            if name in data:
                setattr(data, name, f"{data.get(name)} {mark(series + name)}")
        else:
            setattr(data, name, mark(name))
    data.PatientName, data.PatientID = f"{mark('family')}^{mark('given')}", mark("PatientID")
    data.OperatorsName = mark("OperatorsName")
    data.AccessionNumber, data.InstitutionName = mark("AccessionNumber"), mark("InstitutionName")
    block = data.private_block(0x0011, "MARKS OF A HOSPITAL", create=True)
    for element, vr in enumerate(("LO", "SH", "PN", "LT", "UN")):
        block.add_new(
            element + 1, vr, mark(f"private {vr}").encode() if vr == "UN" else mark(f"private {vr}")
        )
    inner, middle, outer = Dataset(), Dataset(), Dataset()
    inner.PersonName, inner.CodeMeaning = mark("nested name"), mark("nested code")
    middle.ContentSequence = Items([inner])
    outer.RequestedProcedureDescription, outer.ContentSequence = mark("nested text"), Items([middle])
    data.RequestAttributesSequence = Items([outer])


def document(study: pydicom.FileDataset, mark: Marks, kind: str) -> pydicom.FileDataset:
    """An SR or an encapsulated PDF of the same study that repeats its marks in its words."""
    data = Dataset()
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        setattr(data, name, study.get(name))
    words = f"Name {mark('family')} {mark('given')} born 1961-03-07 seen by {mark('nested name')} at {mark('InstitutionName')} no {mark('AccessionNumber')}: a cyst."
    data.SeriesInstanceUID, data.SOPInstanceUID = (
        study.SeriesInstanceUID + "." + ("1" if kind == "sr" else "2"),
        study.SOPInstanceUID + ".9" + ("1" if kind == "sr" else "2"),
    )
    if kind == "sr":
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"
        item, person = Dataset(), Dataset()
        item.ValueType, item.TextValue = "TEXT", words
        person.ValueType, person.PersonName = "PNAME", mark("reader")
        data.ContentSequence = Items([item, person])
    else:
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.104.1", "DOC"
        data.MIMETypeOfEncapsulatedDocument, data.EncapsulatedDocument = "application/pdf", pdf_of(words)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = (
        data.SOPClassUID,
        data.SOPInstanceUID,
        "1.2.840.10008.1.2.1",
    )
    return pydicom.FileDataset("", data, file_meta=meta, preamble=b"\0" * 128)


@pytest.fixture(scope="session")
def marked(source, tmp_path_factory):
    """One study with marks everywhere, its tables and reports with the same ones, and two broken files with marks in their names."""
    root, mark = tmp_path_factory.mktemp("marked"), Marks()
    study = next(p for p in sorted((source / "studies").iterdir()) if len(list(p.iterdir())) >= 4)
    target = root / mark("folder") / mark("study folder")
    for path in sorted(study.rglob("*.dcm")):
        data = pydicom.dcmread(path)
        number = path.parent.name
        mark_header(data, mark, number)
        folder = target / mark(f"series folder {number}")
        folder.mkdir(parents=True, exist_ok=True)
        data.save_as(folder / f"{path.stem}_{mark('file name')}.dcm")
    first = pydicom.dcmread(next(target.rglob("*.dcm")))
    document(first, mark, "sr").save_as(target / f"{mark('sr name')}.dcm", enforce_file_format=True)
    document(first, mark, "pdf").save_as(target / f"{mark('pdf name')}.dcm", enforce_file_format=True)
    (target / f"{mark('not dicom')}.dcm").write_bytes(b"nothing " + mark("content").encode())
    (target / f"{mark('cut')}.dcm").write_bytes(next(target.rglob("*_*.dcm")).read_bytes()[:2000])
    tables = tmp_path_factory.mktemp("tables")
    (tables / "reports").mkdir()
    (tables / "reports" / f"{mark('AccessionNumber')}.txt").write_text(
        f"Patient: {mark('family')}, {mark('given')}\nMRN {mark('PatientID')}\nPelvic MRI of 2020-01-01: a unilocular cyst.\n{mark('private LO')} {mark('OperatorsName')}\nRadiologist: Dr {mark('only in the report')}\n"
    )
    (tables / "records.csv").write_text(
        f"PatientID,age_years,note,doctor\n{mark('PatientID')},44,seen with {mark('family')},{mark('column that no MAP names')}\n"
    )
    (tables / "map.yaml").write_text(
        "key: PatientID\nrecord: {age_years: age_years, note: {column: note, type: category}}\n"
    )
    return root, tables, mark


def test_three_hundred_marks_do_not_leave(marked, tmp_path):
    root, tables, mark = marked
    assert len(mark.given) >= 300
    everywhere = b"".join(
        p.relative_to(root).as_posix().encode() + p.read_bytes() for p in root.rglob("*") if p.is_file()
    )
    everywhere += b"".join(p.name.encode() + p.read_bytes() for p in tables.rglob("*") if p.is_file())
    in_source = set(MARK.findall(everywhere))
    assert len(in_source) >= 300  # the search finds them where they are
    out = tmp_path / "cohort"
    command = [
        BIN,
        "scan",
        root,
        "--out",
        out,
        "--records",
        tables / "records.csv",
        "--reports",
        tables / "reports",
        "--map",
        tables / "map.yaml",
        "--jobs",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert MARK.findall(done.stdout + done.stderr) == []
    for path in out.rglob("*"):
        assert not MARK.search(path.name.encode())
        if path.is_file():
            content = path.read_bytes()
            content += gzip.decompress(content) if path.name.endswith(".gz") else b""
            assert not MARK.search(content), path.name
    vault = b"".join(p.read_bytes() for p in (tmp_path / "cohort.vault").iterdir())
    assert len(set(MARK.findall(vault))) >= 8  # paths, PatientID and series stand there, and only there
    (case,) = Cohort.load(out).cases
    kinds = {a.kind for a in case.assets}
    assert {"t1", "t2"} <= kinds or {"t2", "dwi"} <= kinds  # recognised all the same
    assert all(
        a.facts["DiffusionBValue"] == sorted(a.facts["DiffusionBValue"])
        for a in case.assets
        if "DiffusionBValue" in a.facts
    )
    texts = [(out / a.uri).read_text() for a in case.assets if a.type == "text"]
    assert len(texts) == 3
    assert all("cyst" in text and "1961-03-07" not in text and "2020-01-01" not in text for text in texts)
    codes = [json.loads(line)["code"] for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert sorted(codes) == ["not_dicom", "truncated"]


def test_each_patient_s_own_names_leave_its_report_where_all_files_lie_in_one_folder(source, tmp_path):
    """The second study of a folder is looked through as the first is: its operator and institution are known to its report."""
    names = ("Aurelia", "Balthasar")
    (tmp_path / "in").mkdir()
    (tmp_path / "reports").mkdir()
    for name, study in zip(names, sorted((source / "studies").iterdir())):
        series = next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16)
        for path in sorted(series.iterdir()):
            data = pydicom.dcmread(path)
            data.AccessionNumber, data.OperatorsName = f"ACC{name}", f"{name}^Operator"
            data.save_as(tmp_path / "in" / f"{name}{path.name}")
        (tmp_path / "reports" / f"ACC{name}.txt").write_text(f"A cyst, seen by {name}, not by Nobody.\n")
    command = ["scan", str(tmp_path / "in"), "--reports", str(tmp_path / "reports"), "--jobs", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    texts = sorted(p.read_text() for p in (tmp_path / "out").rglob("*.txt"))
    assert texts == ["A cyst, seen by [removed], not by Nobody.\n"] * 2


def test_messages_of_a_refused_scan_name_no_identifier(marked, tmp_path, capfd):
    root, _, _ = marked
    (tmp_path / "bad.csv").write_text("case,x_mm,y_mm,z_mm\nZQ000MARK,1,2,far\n")
    assert (
        main(["scan", str(root), "--out", str(tmp_path / "c"), "--lesions", str(tmp_path / "bad.csv")]) == 1
    )
    message = capfd.readouterr().err
    assert message.startswith("mmvae: --lesions: bad.csv line 2: expected three numbers")
    assert not MARK.search(message.encode())


# ---- robustness -------------------------------------------------------------------------------------------------------


def test_each_broken_file_costs_itself(source, scanned, tmp_path, capsys):
    study = next(p for p in sorted((source / "studies").iterdir()) if len(list(p.iterdir())) >= 4)
    shutil.copytree(study, tmp_path / "in" / "study")
    t1 = sorted(
        next(
            p for p in sorted((tmp_path / "in" / "study").iterdir()) if len(list(p.iterdir())) == 16
        ).iterdir()
    )
    t1[3].write_bytes(t1[3].read_bytes()[:-500])
    other = pydicom.dcmread(t1[5])
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "in" / "study" / "copy.dcm")
    shutil.copy(t1[6], tmp_path / "in" / "study" / "again.dcm")
    (tmp_path / "in" / "study" / "notes.dcm").write_text("no DICOM")
    with zipfile.ZipFile(tmp_path / "in" / "more.zip", "w") as archive:
        archive.write(t1[8], "a/b.dcm")
    assert (
        main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--strict", "--jobs", "1"]) == 4
    )
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert sorted(line["code"] for line in lines) == [
        "duplicate",
        "duplicate",
        "duplicate",
        "not_dicom",
        "truncated",
    ]
    assert any("other pixels" in line["reason"] for line in lines)
    assert any("bytes of pixels are promised" in line["reason"] for line in lines)
    (case,) = Cohort.load(tmp_path / "out").cases
    assert sum(a.facts.get("missing_slices", 0) for a in case.assets) == 1
    assert "1 truncated" in capsys.readouterr().out


def test_every_file_that_is_left_out_names_its_series_by_the_vault_s_pseudonym(source, tmp_path):
    """A stray of another matrix size, a localizer, a copy, a file cut short; and one that is no DICOM, which has no series."""
    study = sorted((source / "studies").iterdir())[0]
    series = next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16)
    folder = tmp_path / "in" / "series"
    shutil.copytree(series, folder)
    first, *others = sorted(folder.iterdir())
    data = pydicom.dcmread(first)
    data.Rows, data.Columns, data.PixelData = 8, 6, bytes(96)
    data.SOPInstanceUID += ".1"
    data.save_as(folder / "stray.dcm")
    data = pydicom.dcmread(first)
    data.ImageType, data.SeriesInstanceUID = (
        ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        data.SeriesInstanceUID + ".7",
    )
    data.save_as(folder / "localizer.dcm")
    shutil.copy(others[3], folder / "copy.dcm")
    others[7].write_bytes(others[7].read_bytes()[:-300])
    (folder / "notes.dcm").write_text("no DICOM")
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    known = json.loads((tmp_path / "out.vault" / "identifiers.json").read_text())
    entries = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    codes = ["duplicate", "localizer", "mixed_geometry", "not_dicom", "truncated"]
    assert sorted(entry["code"] for entry in entries) == codes
    for entry in entries:
        path = tmp_path / "in" / known["files"][entry["file"]]
        if entry["code"] == "not_dicom":
            assert entry["series"] is None
        else:
            uid = str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
            assert known["series"][entry["series"]] == uid
            assert uid not in json.dumps(entry)  # as the check above finds it in the vault
    (stray,) = [entry for entry in entries if entry["code"] == "mixed_geometry"]
    assert "8 × 6 samples" in stray["reason"]
    assert main(["rekey", "--cohort", str(tmp_path / "out")]) == 0
    again = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    renamed = json.loads((tmp_path / "out.vault" / "identifiers.json").read_text())
    assert not {e["series"] for e in entries if e["series"]} & {e["series"] for e in again}
    assert {renamed["series"][e["series"]] for e in again if e["series"]} == {
        known["series"][e["series"]] for e in entries if e["series"]
    }


def test_what_cannot_be_looked_into_is_accounted_for(source, tmp_path, monkeypatch):
    """A folder that may not be listed, a broken archive and one with a broken member, a link to a folder; a link to a file is the file."""
    study = sorted((source / "studies").iterdir())[0]
    series = next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16)
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "closed" / "x.dcm").write_text("never seen")
    for number, path in enumerate(sorted(series.iterdir())):
        (tmp_path / "in" / f"{number}.dcm").symlink_to(path)
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.dcm").symlink_to(tmp_path / "nowhere")
    for name in ("member.zip", "whole.zip"):
        with zipfile.ZipFile(tmp_path / "in" / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", b"abc" * 5000)
    data = bytearray((tmp_path / "in" / "member.zip").read_bytes())
    data[40:60] = bytes(20)  # inside the member's compressed bytes
    (tmp_path / "in" / "member.zip").write_bytes(data)
    data = bytearray((tmp_path / "in" / "whole.zip").read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at : at + 4] = b"PK\x09\x09"  # the entry of the directory
    (tmp_path / "in" / "whole.zip").write_bytes(data)
    listed = os.scandir

    def scandir(path):
        if isinstance(path, str | os.PathLike) and Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    (case,) = Cohort.load(tmp_path / "out").cases
    assert [a.facts.get("missing_slices", 0) for a in case.assets] == [0]
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert sorted((line["code"], line["reason"].split("(")[0].strip()) for line in lines) == [
        ("truncated", "the archive cannot be opened"),
        ("truncated", "the archive's member does not unpack"),
        ("unreadable", "a link to a folder is not followed"),
        ("unreadable", "the folder cannot be listed"),
        ("unreadable", "the link leads nowhere"),
    ]


def test_too_many_missing_slices_are_a_gap(source, tmp_path, capsys):
    study = sorted((source / "studies").iterdir())[0]
    folder = next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16)
    shutil.copytree(folder, tmp_path / "in" / "series")
    for path in sorted((tmp_path / "in" / "series").iterdir())[3:9]:
        path.unlink()
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 3
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(
        "mmvae: SOURCE: the scan found no case (left out: 10 gap); expected DICOM files"
    )
    assert not (tmp_path / "out").exists()


def _crash(item: str) -> str:
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        time.sleep(60)
    if item == "swell":
        return str(len(bytearray(3 << 30)))
    return item.upper()


def test_workers_survive_crash_hang_and_swelling():
    items = ["a", "crash", "b", "hang", "c", "swell", "d"]
    started = time.time()
    seconds = lambda i: 1.0 if i == "hang" else 20.0  # noqa: E731
    with Workers(2, start_up=15.0) as workers:
        answers = dict(workers.run(_crash, ((i, 0) for i in items), seconds, memory=1 << 30))
        again = dict(workers.run(_crash, [("e", 0), ("swell", 0)], seconds))
        next(workers.run(_crash, [("f", 0), ("g", 0), ("h", 0)], seconds))  # a round that is left early
        last = dict(workers.run(_crash, [("i", 0), ("j", 0)], seconds))
    assert time.time() - started < 50
    assert again == {"e": "E", "swell": str(3 << 30)}  # a round without a limit
    assert last == {"i": "I", "j": "J"}
    assert {k: v for k, v in answers.items() if not isinstance(v, TaskFailure)} == {
        "a": "A",
        "b": "B",
        "c": "C",
        "d": "D",
    }
    assert answers["crash"] == TaskFailure("crashed")
    assert answers["hang"] == TaskFailure("too long")
    assert answers["swell"] == TaskFailure("too much memory")


def test_no_room_left_ends_a_scan_in_one_line_and_leaves_nothing(source, tmp_path, capsys):
    """The kernel refuses any file beyond 100 KiB, so a worker fails while it writes a volume."""
    import resource

    study = sorted((source / "studies").iterdir())[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        status = main(["scan", str(study), "--out", str(tmp_path / "out"), "--jobs", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert "File too large" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir() if p.name != "out.vault"] == []


def scan_killed_at(command: list[str], call: str, when: int) -> bool:
    """The scan under strace, which kills it at its n-th call of a kind; whether it died of it."""
    spy = [
        "strace",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:signal=SIGKILL:when={when}",
    ]
    done = subprocess.run([*spy, *command], capture_output=True, check=False)
    return done.returncode == -signal.SIGKILL or done.returncode == 128 + signal.SIGKILL


@pytest.mark.needs("strace")
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_scan_killed_at_a_write_call_goes_on_and_equals_an_undisturbed_one(source, tmp_path, kills):
    """Vault key and finished studies stay; the cohort appears whole, and with the same key its bytes are those of another scan."""
    small = tmp_path / "two"
    for study in sorted((source / "studies").iterdir())[:2]:
        shutil.copytree(study, small / study.name)
    command = [str(BIN), "scan", str(small), *beside(source), "--jobs", "1", "--out"]
    key = tmp_path / "key.vault"
    key.mkdir(mode=0o700)
    (key / "key").write_text("5c" * 32)
    other = scan_studies(
        small, tmp_path / "undisturbed", source / "records.csv", source / "reports", source / "lesions.csv", source / "map.yaml",
        vault=Vault(tmp_path / "v", bytes.fromhex("5c" * 32)),
    )  # fmt: skip
    assert other.cases == 2
    wanted, rng, died = bytes_below(tmp_path / "undisturbed"), np.random.default_rng(0), 0
    for attempt in range(kills):
        out = tmp_path / f"cohort{attempt}"
        shutil.copytree(key, tmp_path / f"cohort{attempt}.vault")
        call, most = [("write", 34), ("rename", 7), ("mkdir", 5)][int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
        dead = scan_killed_at([*command, str(out)], call, int(rng.integers(1, most)))
        died += dead
        if dead and not out.exists():
            assert subprocess.run([*command, str(out)], capture_output=True, check=False).returncode == 0
        assert bytes_below(out) == wanted
        shutil.rmtree(out)
    assert died >= kills // 2


class Touch:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("content", ["pickle", "[]", '{"assets": 3}', '{"assets": [{"uri": "../../x"}]}'])
def test_what_lies_where_a_stopped_scan_would_have_left_it_is_read_as_plain_values(source, tmp_path, content):
    """The folder beside the cohort, and its vault, may be a stranger's."""
    marker, vault = tmp_path / "marker", Vault(tmp_path / "v", bytes(32))
    study = sorted((source / "studies").iterdir())[0]
    scan_studies(study, tmp_path / "first", vault=vault)
    done = tmp_path / ".cohort.scanning" / "done"
    done.mkdir(parents=True)
    hostile = pickle.dumps(Touch(marker)) if content == "pickle" else content.encode()
    if content == "pickle":
        pickle.loads(hostile)
        assert marker.exists()
        marker.unlink()
    for name in vault.known["cases"]:
        (done / name).write_bytes(hostile)
    scan_studies(study, tmp_path / "cohort", vault=vault)
    assert not marker.exists()
    assert bytes_below(tmp_path / "cohort") == bytes_below(tmp_path / "first")


def test_a_segmentation_and_contours_give_the_lesion_s_point(source, tmp_path):
    """A box of voxels and a square of contours whose centres are known; each of two contoured structures is a case."""
    study = sorted((source / "studies").iterdir())[0]
    series = next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16)
    first = pydicom.dcmread(sorted(series.iterdir())[0])
    shutil.copytree(series, tmp_path / "in" / "series")

    def like(modality: str, kind: str) -> pydicom.FileDataset:
        data, meta = Dataset(), FileMetaDataset()
        for name in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
            setattr(data, name, first.get(name))
        data.Modality, data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = (
            modality,
            kind,
            first.SOPInstanceUID + ".5",
            first.SeriesInstanceUID + ".5",
        )
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = (
            kind,
            data.SOPInstanceUID,
            "1.2.840.10008.1.2.1",
        )
        return pydicom.FileDataset("", data, file_meta=meta, preamble=b"\0" * 128)

    squares = [
        [(0, 0, 5), (10, 0, 5), (10, 10, 5), (0, 10, 5)],
        [(-30, 2, 1), (-20, 2, 1), (-20, 6, 1), (-30, 6, 1)],
    ]
    contours = like("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")
    drawn = []
    for square in squares:
        roi, contour = Dataset(), Dataset()
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", "4"
        contour.ContourData = [str(v) for point in square for v in point]
        roi.ContourSequence = Items([contour])
        drawn.append(roi)
    contours.ROIContourSequence = Items(drawn)
    contours.save_as(tmp_path / "in" / "contours.dcm", enforce_file_format=True)
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "a"), "--jobs", "1"]) == 0
    cases = Cohort.load(tmp_path / "a").cases
    assert sorted(c.lesion.point_mm for c in cases) == [(-25.0, 4.0, 1.0), (5.0, 5.0, 5.0)]
    assert len({c.patient for c in cases}) == 1
    assert len({c.assets[0].uri for c in cases}) == 2

    (tmp_path / "in" / "contours.dcm").unlink()
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[1:, 2:4, 4:7] = 1
    seg = like("SEG", "1.2.840.10008.5.1.4.1.1.66.4")
    seg.Rows = seg.Columns = 8
    seg.NumberOfFrames, seg.SamplesPerPixel, seg.PhotometricInterpretation = "3", 1, "MONOCHROME2"
    seg.BitsAllocated = seg.BitsStored = 8
    seg.HighBit, seg.PixelRepresentation, seg.PixelData = 7, 0, mask.tobytes()
    shared, measures, direction = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, direction.ImageOrientationPatient = ["2", "3"], ["1", "0", "0", "0", "1", "0"]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([direction])
    frames = []
    for k in range(3):
        groups, position = Dataset(), Dataset()
        position.ImagePositionPatient = ["-10", "20", str(4 * k)]
        groups.PlanePositionSequence = Items([position])
        frames.append(groups)
    seg.SharedFunctionalGroupsSequence, seg.PerFrameFunctionalGroupsSequence = Items([shared]), Items(frames)
    seg.save_as(tmp_path / "in" / "seg.dcm", enforce_file_format=True)
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "b"), "--jobs", "1"]) == 0
    (case,) = Cohort.load(tmp_path / "b").cases
    # Columns 4–6 of 3 mm from −10, rows 2–3 of 2 mm from 20, slices 1–2 of 4 mm from 0.
    assert case.lesion.point_mm == (-10 + 3 * 5.0, 20 + 2 * 2.5, 4 * 1.5)
    assert case.frame_from == "lesion"


def test_studies_that_disagree_about_the_patient_are_never_merged(source, tmp_path, capsys):
    """Two studies under one wrong PatientID stay two patients only where the id names nobody; one study with two ids is its own patient."""
    first, second, *_ = sorted((source / "studies").iterdir())
    for name, study, ids in (("a", first, ["X1", "X2"]), ("b", second, ["X1"])):
        for number, path in enumerate(
            sorted(next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16).iterdir())
        ):
            data = pydicom.dcmread(path)
            data.PatientID = ids[number % len(ids)]
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            data.save_as(tmp_path / "in" / name / path.name)
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    cases = Cohort.load(tmp_path / "out").cases
    assert len(cases) == 2
    assert len({case.patient for case in cases}) == 2
    assert "1 studies hold several PatientIDs" in capsys.readouterr().err


# ---- afterwards -------------------------------------------------------------------------------------------------------


def test_what_no_rule_is_sure_of_is_told_series_by_series(source, tmp_path, capsys):
    study = sorted((source / "studies").iterdir())[0]
    series = next(p for p in sorted(study.iterdir()) if len(list(p.iterdir())) == 16)
    (tmp_path / "in").mkdir()
    for path in sorted(series.iterdir()):
        data = pydicom.dcmread(path)
        for name in ("EchoTime", "RepetitionTime", "SeriesDescription", "ProtocolName"):
            if name in data:
                del data[name]
        data.save_as(tmp_path / "in" / path.name)
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    (case,) = Cohort.load(tmp_path / "out").cases
    message = capsys.readouterr().err
    assert "1 series: 1 of no known kind" in message
    assert f"series {case.assets[0].facts['series']} of case {case.case_id}: no kind" in message


def test_rekey_renames_vault_and_cohort_together(source, tmp_path):
    study = sorted((source / "studies").iterdir())[0]
    out = tmp_path / "cohort"
    (tmp_path / "reports").mkdir()
    accession = str(pydicom.dcmread(next(study.rglob("*.dcm"))).AccessionNumber)
    (tmp_path / "reports" / f"{accession}.txt").write_text("Seen on 2020-05-05: a cyst.\n")
    assert (
        main(["scan", str(study), "--out", str(out), "--reports", str(tmp_path / "reports"), "--jobs", "1"])
        == 0
    )
    before, (old,) = bytes_below(out), Cohort.load(out).cases
    assert main(["rekey", "--cohort", str(out)]) == 0
    (new,) = Cohort.load(out).cases
    assert new.case_id != old.case_id and new.patient != old.patient
    names = b"".join(bytes_below(out).values()) + " ".join(bytes_below(out)).encode()
    assert old.case_id.encode() not in names and old.patient.encode() not in names
    assert not any(f.encode() in names for a in old.assets for f in a.files if not isinstance(a.files, dict))
    volumes = lambda tree: sorted(v for k, v in tree.items() if k.endswith(".nii.gz"))  # noqa: E731
    assert volumes(before) == volumes(bytes_below(out))
    vault = Vault.open(tmp_path / "cohort.vault")
    assert vault.known["cases"][new.case_id] == old_study(study)
    assert pseudonym(vault.key, "cases", "c", old_study(study)) == new.case_id
    text = (out / next(a.uri for a in new.assets if a.type == "text")).read_text()
    shown = datetime.date.fromisoformat(re.search(r"\d{4}-\d\d-\d\d", text).group())
    who = vault.known["patients"][new.patient]
    assert (shown - datetime.date(2020, 5, 5)).days == vault.shift_days(who)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort", "cohort.vault", "reports"]


class _Stop(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("renames", range(5))
def test_a_rekey_that_is_stopped_is_finished_by_the_next(source, scanned, tmp_path, monkeypatch, renames):
    """Stopped before its nth rename of a folder: cohort and vault must belong together after the next run."""
    root = tmp_path / "cohort"
    shutil.copytree(scanned, root)
    shutil.copytree(scanned.with_name("cohort.vault"), tmp_path / "cohort.vault")
    rename, folders = os.rename, 0

    def counting(old, new):
        nonlocal folders
        if folders == renames:
            raise _Stop
        folders += 1
        rename(old, new)

    monkeypatch.setattr(os, "rename", counting)
    try:
        main(["rekey", "--cohort", str(root)])
        stopped = False
    except _Stop:
        stopped = True
    monkeypatch.undo()
    assert stopped == (renames < 4)  # two folders, each swapped by two renames
    assert main(["rekey", "--cohort", str(root)]) == 0
    vault = Vault.open(tmp_path / "cohort.vault")
    for case in Cohort.load(root).cases:
        study = vault.known["cases"][case.case_id.split("-")[0]]
        assert pseudonym(vault.key, "cases", "c", study) == case.case_id.split("-")[0]
        assert vault.known["patients"][case.patient]
        assert (root / case.assets[0].uri).is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cohort", "cohort.vault"]


def old_study(study: Path) -> str:
    return str(pydicom.dcmread(next(study.rglob("*.dcm"))).StudyInstanceUID)


def test_assign_obeys_an_override_and_asks_again(scanned, tmp_path):
    shutil.copytree(scanned, tmp_path / "cohort")
    case = Cohort.load(tmp_path / "cohort").cases[0]
    asset = next(a for a in case.assets if a.kind == "t1")
    (tmp_path / "o.csv").write_text(f"F_or_series,kind\n{asset.facts['series']},flair\n")
    assert main(["assign", "--cohort", str(tmp_path / "cohort"), "--override", str(tmp_path / "o.csv")]) == 0
    changed = next(a for a in Cohort.load(tmp_path / "cohort").cases[0].assets if a.uri == asset.uri)
    assert (changed.kind, changed.confidence, changed.runner_up) == ("flair", 1.0, "t1")
    assert main(["assign", "--cohort", str(tmp_path / "cohort")]) == 0
    assert Cohort.load(tmp_path / "cohort").cases[0].assets == case.assets
    (tmp_path / "o.csv").write_text("x,xray\n")
    assert main(["assign", "--cohort", str(tmp_path / "cohort"), "--override", str(tmp_path / "o.csv")]) == 1


def test_a_study_folder_is_searched_directly(source, trained, phantom, tmp_path, capsys):
    e, index = str(tmp_path / "e"), str(tmp_path / "i")
    assert main(["embed", "--checkpoint", str(trained), "--cohort", str(phantom), "--out", e]) == 0
    assert main(["index", "build", e, "--out", index]) == 0
    study = sorted((source / "studies").iterdir())[0]
    point = next(
        r.split(",")[1:]
        for r in (source / "lesions.csv").read_text().splitlines()
        if r.startswith(study.name)
    )
    (tmp_path / "record.json").write_text('{"age_years": 50}')
    capsys.readouterr()
    ask = ["search", "--index", index, "--case", str(study), "--jobs", "1", "-k", "3", "--json"]
    assert main([*ask, "--lesion=" + ",".join(point), "--record", str(tmp_path / "record.json")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["neighbours"]) == 3
    assert "t2" in answer["using"] or "t1" in answer["using"]
    assert main(ask) == 1  # the model looks about the lesion, and no point is given
    assert "no lesion point" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.dcm").write_text("nothing")
    assert main([*ask[:3], "--case", str(tmp_path / "empty"), "--jobs", "1"]) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "empty", "i", "record.json"]


def test_doctor_tells_what_is_there_and_what_is_not(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    message = capsys.readouterr().out
    for what in ("torch", "decoder of JPEG-LS Lossless: installed", "memory", "threads", "GPU", "wandb"):
        assert what in message
    import mmvae.cli.doctor as doctor

    monkeypatch.setattr(doctor, "version", lambda name: "2.6.2" if name == "lightning" else "9.9")
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert main(["doctor"]) == 0
    message = capsys.readouterr().out
    assert "LACKS  lightning: 2.6.2" in message
    assert "steals credentials" in message
    assert "LACKS  threads" in message


def test_two_thousand_mutated_files_crash_nothing():
    from benchmarks.broken import run

    measured = run(2000, 1, (), jobs=2)
    assert measured["crashed, hung or raised"] == 0
    assert measured["reached pixel decoding"] >= 0.4
    assert measured["slowest s"] < 5
    assert measured["largest growth MiB"] < 1024
    assert set(measured["codes"]) >= {"used", "truncated"}
