"""Parses a DICOM data set from a file: of Part 10 (PS3.10 7.1), or without its preamble or its meta information."""

from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mmvae.ingest.signatures import kind_of_file
from mmvae.ingest.skipped import Unusable

# The first element of a file without preamble is of the meta information, or of group 0008 in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_dataset(stream: BinaryIO, **options: Any) -> Dataset:
    """The data set, with `file_meta.TransferSyntaxUID`; the stream is left where pydicom leaves it.

    A file without a preamble is parsed if it begins as a data set does and then proves to be an instance, which has a
    SOPClassUID and a SOPInstanceUID.

    Args:
        stream: The file, at its start.
        options: Of `pydicom.dcmread`, such as `stop_before_pixels`.

    Raises:
        Unusable: if it is not DICOM; the reason says what it is as far as its first bytes show.
    """
    head = stream.read(132)
    stream.seek(0)
    if head[128:] == b"DICM":
        return pydicom.dcmread(stream, **options)
    if head[:2] not in _FIRST_GROUPS:
        raise _not_dicom(head)
    data = pydicom.dcmread(stream, force=True, **options)
    if not (_text(data, "SOPClassUID") and _text(data, "SOPInstanceUID")):
        raise _not_dicom(head)
    if not hasattr(data, "file_meta"):
        data.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        data.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    return data


def read_whole(path: Path) -> Dataset:
    """The data set of a file with its pixels; see `read_dataset`."""
    with path.open("rb") as stream:
        return read_dataset(stream)


def _text(data: Dataset, name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _not_dicom(head: bytes) -> Unusable:
    kind = kind_of_file(head)
    if kind is not None:
        return Unusable("not_dicom", f"the file is {kind}, not a DICOM object")
    return Unusable(
        "not_dicom", "the file has no DICM mark at byte 128, and does not begin as a DICOM data set"
    )
