"""Reads the header of one DICOM file: study and series, identifiers, record, and its frames, text or points."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from mmvae.identity.headers import identifiers_of
from mmvae.ingest.dicom import documents
from mmvae.ingest.dicom.dataset import read_dataset
from mmvae.ingest.dicom.facts import modality_code, record_of, several
from mmvae.ingest.dicom.frame import Header
from mmvae.ingest.dicom.planes import frames_of, order_of, three_numbers, time_of
from mmvae.ingest.dicom.storage import PixelData, pixels_of
from mmvae.ingest.skipped import Unusable

DICOMDIR = "1.2.840.10008.1.3.10"
# Storage of CR, DX, mammography, CT and MR: these objects must hold Rows and Columns (PS3.4 B.5).
IMAGE_STORAGE = frozenset(
    "1.2.840.10008.5.1.4.1.1." + end for end in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "2", "2.1", "4", "4.1", "4.4")
)  # fmt: skip


@dataclass
class Memory:
    """A cache of one worker over the files that it reads, so that repeated headers are parsed only once.

    Args:
        headers: The first header with given values of all elements that do not vary within a series, by those values.
        searched: Study and SeriesInstanceUID of series in which one file was already searched for identifiers.
    """

    headers: dict[tuple[Any, ...], Header] = field(default_factory=dict)
    searched: set[tuple[str, str]] = field(default_factory=set)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences pydicom: it quotes values in its warnings and its log, and a value may be a name."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def read_header(path: Path, file: int, memory: Memory | None = None) -> Header:
    """The file's header and frames; pixels are not read. The first file of each series is searched for identifiers.

    Args:
        path: Path of the file.
        file: Its number in the scan.
        memory: Cache of the files that this process has read.

    Raises:
        Unusable: with code and reason, if no case can use the file; its `series` is the SeriesInstanceUID if the header
            could be parsed.
    """
    try:
        with path.open("rb") as stream, quiet():
            data = read_dataset(stream, stop_before_pixels=True)
            element = PixelData(stream.tell(), stream.read(12), path.stat().st_size)
    except Unusable:
        raise
    except Exception as error:  # a corrupt header can raise anything in pydicom or zlib
        if isinstance(error, OSError) and error.errno is not None:
            raise Unusable("unreadable", f"the file cannot be opened (error {error.errno})") from error
        raise Unusable("truncated", f"the header cannot be parsed ({type(error).__name__})") from error
    with quiet():
        memory = memory or Memory()
        try:
            header = _header(path, data, file, element, memory)
        except Unusable as error:
            error.series = _series_of(data)
            raise
        except RecursionError as error:
            raise Unusable("limit", "the header nests deeper than can be read") from error
        except Exception as error:  # values of the wrong type in a corrupt header
            reason = f"the header's values cannot be read ({type(error).__name__})"
            raise Unusable("truncated", reason, _series_of(data)) from error
        memory.searched.add((header.study, header.series))
        return header


def _series_of(data: Dataset) -> str | None:
    """The SeriesInstanceUID of a header that may be broken, or None."""
    try:
        return str(data.get("SeriesInstanceUID") or "") or None
    except Exception:  # this element may itself be the broken one
        return None


def _header(path: Path, data: Dataset, file: int, element: PixelData, memory: Memory) -> Header:
    meta = getattr(data, "file_meta", Dataset())
    constant = _constant_elements(data, meta)
    if constant in memory.headers:
        return _repeated(memory.headers[constant], data, file, element)
    storage = str(data.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    if storage == DICOMDIR:
        raise Unusable("not_image", _directory(path, data))
    header = _identity(data, file, memory)
    modality = str(data.get("Modality") or "")
    if modality in ("SR", "DOC") or "ContentSequence" in data or "EncapsulatedDocument" in data:
        return replace(header, text=documents.text_of(data))
    if modality in ("SEG", "RTSTRUCT"):
        return replace(header, points=documents.lesion_points(path))
    if "Rows" not in data and storage in IMAGE_STORAGE:
        raise Unusable("truncated", "an image whose header ends before Rows and Columns")
    if "Rows" not in data or "Columns" not in data:
        code = modality_code(data) or "unknown"
        raise Unusable("not_image", f"an object of modality {code} without Rows and Columns holds no image")
    header = replace(header, frames=tuple(frames_of(data, file, pixels_of(data, meta, element))))
    if len(header.frames) == 1:
        memory.headers[constant] = header
    return header


def _identity(data: Dataset, file: int, memory: Memory) -> Header:
    """A header with the elements that group the file, and the identifiers in it."""
    study, series, instance, patient, accession = (
        str(data.get(name) or "")
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "AccessionNumber")
    )  # fmt: skip
    known = bool(study and series) and (study, series) in memory.searched
    identifiers = frozenset() if known else frozenset(identifiers_of(data))
    return Header(file, study, series, instance, patient, accession, identifiers, record=record_of(data))


def _repeated(known: Header, data: Dataset, file: int, element: PixelData) -> Header:
    """The header of a file that differs from a known one in position, time and number only."""
    (frame,) = known.frames
    position = frame.position if frame.picture else three_numbers(data.get("ImagePositionPatient"))
    if position is None:
        raise Unusable("no_position", "ImagePositionPatient is missing or is not a list of finite numbers")
    pixels = frame.pixels
    if pixels.offset is not None:
        needed = pixels.rows * pixels.columns * pixels.samples * max(1, pixels.bits_allocated // 8)
        pixels = replace(pixels, offset=element.start(needed))
    frame = replace(
        frame, file=file, pixels=pixels, position=position, time_s=time_of(data.get), order=order_of(data, data.get)
    )  # fmt: skip
    instance = str(data.get("SOPInstanceUID") or "")
    return replace(known, file=file, instance=instance, identifiers=frozenset(), frames=(frame,))


def _directory(path: Path, data: Dataset) -> str:
    """A sentence on the files that a DICOMDIR lists; they are read on their own."""
    records = data.get("DirectoryRecordSequence") or []
    listed = [
        [str(part) for part in several(r.get("ReferencedFileID"))] for r in records if "ReferencedFileID" in r
    ]
    missing = sum(".." in parts or not path.parent.joinpath(*parts).is_file() for parts in listed)
    return (
        f"a DICOMDIR that lists {len(listed)} files, {missing} of them missing; the files themselves are read"
    )


# Elements that differ within a series and that affect neither the in-plane geometry nor any fact.
_VARYING = frozenset(
    tag_for_keyword(name)
    for name in (
        "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "AcquisitionTime", "ContentTime",
        "AcquisitionNumber", "AcquisitionDateTime", "InstanceCreationTime", "TemporalPositionIdentifier", "TriggerTime",
        "SmallestImagePixelValue", "LargestImagePixelValue", "WindowCenter", "WindowWidth", "AcquisitionDate", "ContentDate",
    )
)  # fmt: skip


def _constant_elements(data: Dataset, meta: Dataset) -> tuple[Any, ...]:
    """All other elements, unparsed ones as bytes; files in which these are equal have the same facts."""
    elements: list[Any] = [str(meta.get("TransferSyntaxUID"))]
    for tag in data.keys():  # noqa: SIM118 - iterating a Dataset converts every element
        if tag not in _VARYING:
            element = data.get_item(tag)
            value = element.value if isinstance(element, RawDataElement) else str(element.value)
            elements.append((int(tag), value))
    return tuple(elements)
