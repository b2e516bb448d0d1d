"""Archives, compressed files, files without preamble, names that are not UTF-8: each file is read, or named for what it is."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from mmvae.cli import main
from mmvae.identity.vault import Vault
from mmvae.ingest import archives
from mmvae.ingest.archives import unpack
from mmvae.ingest.dicom.header import read_header
from mmvae.ingest.dicom.pixels import read_frames
from mmvae.ingest.skipped import Unusable
from mmvae.ingest.source import walk


def slice_of(number: int, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """An axial T2 slice at 5 mm steps, whose samples all are 100 + number."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, f"1.2.3.{number + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.PatientID = "1.2.30", "1.2.31", "P7"
    data.Modality, data.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
    data.Rows, data.Columns, data.SamplesPerPixel = 4, 5, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelSpacing, data.SliceThickness = [1, 1], 5
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 5 * number]
    data.ScanningSequence, data.RepetitionTime, data.EchoTime, data.InstanceNumber = (
        "SE",
        4000,
        100,
        number + 1,
    )
    order = "big" if syntax == ExplicitVRBigEndian else "little"
    data.PixelData = (100 + number).to_bytes(2, order) * 20
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    return data


def part10(number: int) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, slice_of(number), enforce_file_format=True)
    return stream.getvalue()


def bare(number: int, syntax: str) -> bytes:
    """The data set alone: no preamble, no meta information."""
    stream, data = io.BytesIO(), slice_of(number, syntax)
    del data.file_meta
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(stream, data, implicit_vr=implicit, little_endian=little)
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def walked(tmp_path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """Contents by path of what `walk` lists below `in`, and the codes by path of what it leaves out."""
    vault = Vault(tmp_path / "vault", bytes(32))
    files, skipped = walk(tmp_path / "in", tmp_path / "unpacked", vault)
    return {f.relative: f.path.read_bytes() for f in files}, {vault.whereis(s.file): s.code for s in skipped}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.dcm.gz", gzip.compress(part10(0))),
        ("a.dcm.bz2", bz2.compress(part10(0))),
        ("A.DCM.XZ", lzma.compress(part10(0))),
        ("b.zip", zipped({"deep/a.dcm": part10(0)})),
        ("b.tar", tarred({"deep/a.dcm": part10(0)})),
        ("b.tgz", tarred({"a.dcm": part10(0)}, "w:gz")),
        ("b.tar.xz", tarred({"a.dcm": part10(0)}, "w:xz")),
        ("c.zip", zipped({"inner.zip": zipped({"a.dcm.gz": gzip.compress(part10(0))})})),
    ],
)  # fmt: skip
def test_what_is_packed_is_read(tmp_path, name, content):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    files, skipped = walked(tmp_path)
    assert (list(files.values()), skipped) == ([part10(0)], {})


def test_a_compressed_nifti_is_not_unpacked(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t1.nii.gz").write_bytes(gzip.compress(b"n+1"))
    assert list(walked(tmp_path)[0]) == ["t1.nii.gz"]


def test_each_archive_is_accounted_for_even_where_nothing_comes_out_of_it(tmp_path):
    (tmp_path / "in").mkdir()
    for name, content in {
        "empty.zip": zipped({}),
        "broken.zip": b"PK\x03\x04" + bytes(50),
        "short.dcm.gz": gzip.compress(os.urandom(9000))[:-3000],
        "none.tar.gz": gzip.compress(b"no archive"),
    }.items():
        (tmp_path / "in" / name).write_bytes(content)
    files, skipped = walked(tmp_path)
    assert files == {}
    codes = {path.split("/")[0]: code for path, code in skipped.items()}
    assert codes == {
        "empty.zip": "not_dicom",
        "broken.zip": "truncated",
        "short.dcm.gz": "truncated",
        "none.tar.gz": "truncated",
    }


def test_a_zip_inside_itself_ends(tmp_path):
    inner = zipped({"a.dcm": part10(0)})
    for _ in range(7):
        inner = zipped({"next.zip": inner})
    (tmp_path / "x.zip").write_bytes(inner)
    (member,) = list(unpack(tmp_path / "x.zip", "x.zip", tmp_path / "out"))
    assert isinstance(member[1], Unusable) and "more than 4 deep" in member[1].reason


def test_a_file_that_unpacks_to_more_than_the_limit_leaves_nothing_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 1 << 21)
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(8 << 20)))
    (tmp_path / "x.zip").write_bytes(zipped({"a": bytes(8 << 20)}))
    for name in ("x.gz", "x.zip"):
        ((_, reason),) = list(unpack(tmp_path / name, name, tmp_path / f"{name}.out"))
        assert isinstance(reason, Unusable) and reason.code == "limit"
        assert list((tmp_path / f"{name}.out").iterdir()) == []


def test_a_pipe_is_named_and_never_waited_for(tmp_path):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.dcm")
    assert walked(tmp_path) == ({}, {"pipe.dcm": "unreadable"})


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_bare_data_set_is_read(tmp_path, syntax):
    path = tmp_path / "x"
    path.write_bytes(bare(3, syntax))
    header = read_header(path, 0)
    assert (header.series, header.frames[0].position) == ("1.2.31", (0, 0, 15))
    (plane,) = read_frames(path, header.frames)
    assert (plane == 103).all()


def test_a_file_without_preamble_is_read(tmp_path):
    (tmp_path / "x").write_bytes(part10(2)[132:])
    header = read_header(tmp_path / "x", 0)
    assert (read_frames(tmp_path / "x", header.frames)[0] == 102).all()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (bytes(500), "a file of zeros"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300), "a PNG picture"),
        (b"%PDF-1.7" + bytes(300), "a PDF"),
        (zipped({"a": b"b"}), "a zip archive"),
        (part10(0)[128:], "lost the 128 bytes"),
        (b"Reading room, Tuesday", "a text"),
        (b"\xef\xbb\xbf<ClinicalDocument>", "an XML or HTML text"),
        (b"\x08\x00\x05\x00" + bytes(range(200)), "does not begin as a DICOM data set"),
        (os.urandom(1) + b"\xfe\xfd" + bytes(range(200)), "does not begin as a DICOM data set"),
    ],
)  # fmt: skip
def test_what_is_not_dicom_is_named_for_what_it_is(tmp_path, content, named):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(Unusable, match=named) as caught:
        read_header(tmp_path / "x", 0)
    assert caught.value.code in ("not_dicom", "truncated")


def test_a_folder_whose_name_is_no_utf8_costs_nothing(tmp_path, capsys):
    folder = os.fsencode(tmp_path / "in") + b"/H\xe9l\xe8ne"
    os.makedirs(folder)
    for number in range(4):
        with open(folder + b"/%d.dcm" % number, "wb") as stream:
            stream.write(part10(number))
    assert main(["scan", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    (case,) = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    files = case["assets"][0]["files"]
    assert len(files) == 4
    capsys.readouterr()
    assert main(["whereis", files[0], "--cohort", str(tmp_path / "out")]) == 0
    assert "H\\xe9l\\xe8ne/" in capsys.readouterr().out
    assert main(["rekey", "--cohort", str(tmp_path / "out")]) == 0
