"""One DICOM file → its frames: geometry, where the pixels lie, and the header facts that may leave it."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from mmvae.ingest import documents, vendor
from mmvae.ingest.facts import facts_of, record_of, several
from mmvae.ingest.skipped import Unusable
from mmvae.ingest.vendor import number_of

# By so much the decoded pixels may exceed the file's own size, else it is refused unread: a header can promise what no memory holds.
LARGEST_GROWTH_BYTES = 1 << 30

MR_STORAGE = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")


@dataclass(frozen=True)
class Pixels:
    """How a frame's samples are stored, enough to read uncompressed ones without a second parse."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str
    offset: int | None
    frames: int


@dataclass(frozen=True)
class Frame:
    """One image plane. `file` is the index of its file in the scan; uid fields never leave the ingest room.

    Args:
        position, orientation: Patient LPS mm and unit vectors: the first along a row (increasing column), the second down a column.
        spacing: (row step, column step) mm, as PixelSpacing.
        tile: (row, column) of a mosaic's tile, else None.
        slope, intercept: Stored value → modality value.
        time_s: Seconds since midnight of the acquisition, or None; `order` is what else sorts the repetitions of a position.
    """

    file: int
    number: int
    pixels: Pixels
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    slope: float
    intercept: float
    facts: Mapping
    b_value: float | None
    time_s: float | None
    order: tuple[float, ...]
    tile: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Header:
    """A file: what groups it (identifiers, for the vault's eyes only), and its frames or its text."""

    file: int
    study: str
    series: str
    instance: str
    patient: str
    accession: str
    identifiers: frozenset[str]
    modality: str
    frames: tuple[Frame, ...] = ()
    text: str | None = None
    record: Mapping[str, float | str] = field(default_factory=dict)
    points: tuple = ()


@dataclass
class Memory:
    """What is remembered between the files that one worker reads, so that it is worked out once.

    Args:
        headers: By all elements that do not vary within a series, the first header that had them.
        looked: Study and SeriesInstanceUID of which one file was looked through for identifiers.
    """

    headers: dict[tuple, Header] = field(default_factory=dict)
    looked: set[tuple[str, str]] = field(default_factory=set)


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom quotes values in its warnings and its log, and a value may be a name: nothing of it is shown."""
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
    """The file's header and frames; pixels are not read. The first file of each series is looked through for identifiers.

    Raises:
        Unusable: with code and sentence, where the file is nothing a case is made of.
    """
    try:
        with path.open("rb") as stream, quiet():
            data = pydicom.dcmread(stream, stop_before_pixels=True)
            offset = stream.tell()
            head = stream.read(12)
        size = path.stat().st_size
    except pydicom.errors.InvalidDicomError as error:
        raise Unusable(
            "not_dicom", "the file has no DICM mark at byte 128 and no file meta information"
        ) from error
    except Exception as error:  # a mutated header raises anything that pydicom or zlib can
        if isinstance(error, OSError) and error.errno is not None:
            raise Unusable("unreadable", f"the file cannot be opened (error {error.errno})") from error
        raise Unusable("truncated", f"the header cannot be parsed ({type(error).__name__})") from error
    try:
        with quiet():
            memory = memory or Memory()
            made = _header(path, data, file, offset, head, size, memory)
            memory.looked.add((made.study, made.series))
            return made
    except Unusable:
        raise
    except RecursionError as error:
        raise Unusable("limit", "the header nests deeper than can be read") from error
    except Exception as error:  # values of the wrong kind in a mutated header
        raise Unusable("truncated", f"the header's values cannot be read ({type(error).__name__})") from error


def _header(
    path: Path, data: Dataset, file: int, offset: int, head: bytes, size: int, memory: Memory
) -> Header:
    meta = getattr(data, "file_meta", Dataset())
    same = _same(data, meta)
    if same in memory.headers:
        return _again(memory.headers[same], data, file, offset, head, size)
    kind = str(data.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    if kind == "1.2.840.10008.1.3.10":
        raise Unusable("not_image", _directory(path, data))
    ids = {
        name: str(data.get(name) or "")
        for name in (
            "StudyInstanceUID",
            "SeriesInstanceUID",
            "SOPInstanceUID",
            "AccessionNumber",
            "PatientID",
        )
    }
    place = ids["StudyInstanceUID"], ids["SeriesInstanceUID"]
    identity = set() if all(place) and place in memory.looked else vendor.identifiers_of(data)
    modality = str(data.get("Modality") or "")
    common = (
        file,
        ids["StudyInstanceUID"],
        ids["SeriesInstanceUID"],
        ids["SOPInstanceUID"],
        ids["PatientID"],
        ids["AccessionNumber"],
        frozenset(identity),
        modality,
    )
    record = record_of(data)
    if modality in ("SR", "DOC") or "ContentSequence" in data or "EncapsulatedDocument" in data:
        return Header(*common, text=documents.text_of(data, kind), record=record)
    if modality in ("SEG", "RTSTRUCT"):
        return Header(*common, points=documents.lesion_points(path), record=record)
    if "Rows" not in data and kind in MR_STORAGE:
        raise Unusable("truncated", "an MR image whose header ends before Rows and Columns")
    if "Rows" not in data or "Columns" not in data:
        raise Unusable(
            "not_image", f"an object of modality {_code(modality)} without Rows and Columns holds no image"
        )
    frames = int(data.get("NumberOfFrames") or 1)
    pixels = _pixels(data, meta, frames, offset, head, size)
    made = Header(*common, frames=tuple(_frames(data, file, pixels)), record=record)
    if len(made.frames) == 1:
        memory.headers[same] = made
    return made


def _again(known: Header, data: Dataset, file: int, offset: int, head: bytes, size: int) -> Header:
    """The header of a file that differs from a known one in position, time and number only."""
    frame = known.frames[0]
    position = _numbers(data.get("ImagePositionPatient"), 3)
    if position is None:
        raise Unusable("no_position", "ImagePositionPatient is missing or is no list of finite numbers")
    pixels = frame.pixels
    if pixels.offset is not None:
        needed = pixels.rows * pixels.columns * pixels.samples * max(1, pixels.bits_allocated // 8)
        pixels = replace(pixels, offset=_start(offset, head, size, needed))
    frame = replace(
        frame,
        file=file,
        pixels=pixels,
        position=position,
        time_s=_time(data.get),
        order=_order(data, data.get),
    )
    instance = str(data.get("SOPInstanceUID") or "")
    return replace(known, file=file, instance=instance, identifiers=frozenset(), frames=(frame,))


def _directory(path: Path, data: Dataset) -> str:
    """What a DICOMDIR says of the files beside it, which are read by themselves."""
    records = data.get("DirectoryRecordSequence") or []
    listed = [
        [str(part) for part in several(r.get("ReferencedFileID"))] for r in records if "ReferencedFileID" in r
    ]
    missing = sum(".." in parts or not path.parent.joinpath(*parts).is_file() for parts in listed)
    return (
        f"a DICOMDIR that lists {len(listed)} files, {missing} of them missing; the files themselves are read"
    )


def _code(value: str) -> str:
    return value if value.isalnum() and len(value) <= 8 else "unknown"


def _text(data: Dataset, name: str) -> str:
    value = data.get(name)
    return "" if value is None else str(value).strip()


def _numbers(value, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _pixels(data: Dataset, meta: Dataset, frames: int, offset: int, head: bytes, size: int) -> Pixels:
    rows, columns, samples = int(data.Rows), int(data.Columns), int(data.get("SamplesPerPixel") or 1)
    allocated = int(data.get("BitsAllocated") or 0)
    syntax = UID(str(meta.get("TransferSyntaxUID") or "1.2.840.10008.1.2"))
    if not (rows > 0 and columns > 0 and frames > 0):
        raise Unusable(
            "not_image", f"Rows {rows}, Columns {columns}, NumberOfFrames {frames}: expected positive numbers"
        )
    if "FloatPixelData" not in data and allocated not in (1, 8, 16, 32):
        raise Unusable("not_image", f"BitsAllocated is {allocated}, expected 8, 16 or 32")
    needed = rows * columns * samples * frames * max(1, allocated // 8)
    if needed > LARGEST_GROWTH_BYTES + size:
        raise Unusable(
            "limit",
            f"the header promises {needed / 2**30:.1f} GiB of pixels, over {LARGEST_GROWTH_BYTES >> 30} GiB more than the file's size",
        )
    stored = int(data.get("BitsStored") or allocated)
    high = int(data.get("HighBit") if data.get("HighBit") is not None else stored - 1)
    start = None
    plain = syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
    if plain:
        start = _start(offset, head, size, needed)
    return Pixels(
        rows,
        columns,
        samples,
        allocated,
        stored,
        high,
        bool(int(data.get("PixelRepresentation") or 0)),
        str(syntax),
        start,
        frames,
    )


def _start(offset: int, head: bytes, size: int, needed: int) -> int | None:
    """Where the samples begin, from the first bytes of the PixelData element (PS3.5 7.1); None where they are encapsulated."""
    if head[:4] != b"\xe0\x7f\x10\x00":
        raise Unusable("truncated", "the header is followed by no PixelData")
    length_at = 8 if head[4:6].isalpha() and head[4:6].isupper() else 4
    length = int.from_bytes(head[length_at : length_at + 4], "little")
    start = offset + length_at + 4
    if length == 0xFFFFFFFF:
        return None
    if size - start < needed:
        raise Unusable(
            "truncated", f"{needed} bytes of pixels are promised, {max(0, size - start)} are there"
        )
    return start


def _frames(data: Dataset, file: int, pixels: Pixels) -> Iterator[Frame]:
    modality = _code(str(data.get("Modality") or ""))
    if modality != "MR":
        raise Unusable("not_image", f"modality {modality}; an MR image was expected")
    tokens = tuple(str(t).upper() for t in several(data.get("ImageType")))
    if "LOCALIZER" in tokens or "localizer" in vendor.words(data):
        raise Unusable("localizer", "ImageType or the description says localizer")
    if str(data.get("BurnedInAnnotation") or "").upper() == "YES":
        raise Unusable("screenshot", "BurnedInAnnotation is YES: letters may stand in the picture")
    if pixels.samples != 1:
        raise Unusable(
            "screenshot", f"SamplesPerPixel is {pixels.samples}: a coloured picture, not a measurement"
        )
    reformats = {"MPR", "REFORMATTED"} if "DERIVED" in tokens else set()
    if ({"SUB", "SUBTRACTION", "MIP", "MINIP", "PROJECTION", "PROJECTION IMAGE"} | reformats) & set(tokens):
        raise Unusable("derived", "ImageType names a reformat, projection or subtraction")
    shared = data.get("SharedFunctionalGroupsSequence")
    by_frame = data.get("PerFrameFunctionalGroupsSequence")
    if by_frame:
        if len(by_frame) != pixels.frames:
            raise Unusable(
                "truncated",
                f"NumberOfFrames is {pixels.frames}, functional groups are given for {len(by_frame)}",
            )
        for number, groups in enumerate(by_frame):
            yield _one(data, [groups, *(shared or [])[:1]], file, number, pixels, tokens)
        return
    if "MOSAIC" in tokens:
        yield from _mosaic(data, file, pixels, tokens)
        return
    if "VFRAME" in tokens:
        yield from _grid(data, file, pixels, tokens)
        return
    if pixels.frames > 1:
        raise Unusable(
            "no_position", f"{pixels.frames} frames and no functional groups that say where each lies"
        )
    yield _one(data, [], file, 0, pixels, tokens)


# Elements that differ within a series and on which neither geometry in the plane nor any fact depends.
_VARYING = frozenset(
    tag_for_keyword(name)
    for name in [
        "SOPInstanceUID",
        "InstanceNumber",
        "ImagePositionPatient",
        "SliceLocation",
        "AcquisitionTime",
        "ContentTime",
        "AcquisitionNumber",
        "AcquisitionDateTime",
        "InstanceCreationTime",
        "TemporalPositionIdentifier",
        "TriggerTime",
        "SmallestImagePixelValue",
        "LargestImagePixelValue",
        "WindowCenter",
        "WindowWidth",
        "AcquisitionDate",
        "ContentDate",
    ]
)


def _same(data: Dataset, meta: Dataset) -> tuple:
    """All other elements as they stand in the file, unread ones as bytes: two files with the same have the same facts."""
    made: list = [str(meta.get("TransferSyntaxUID"))]
    for tag in data.keys():  # noqa: SIM118 - iterating a Dataset converts every element
        if tag not in _VARYING:
            element = data.get_item(tag)
            made.append(
                (int(tag), element.value if isinstance(element, RawDataElement) else str(element.value))
            )
    return tuple(made)


class _Look:
    """A header's elements as one frame sees them: its own functional groups, the shared ones, then the top level."""

    def __init__(self, data: Dataset, groups: list[Dataset]):
        self.data, self.places = (
            data,
            [
                item
                for group in groups
                for element in group
                if element.VR == "SQ" and element.value
                for item in element.value[:1]
            ],
        )

    def __call__(self, name: str | tuple[int, int]):
        for place in (*self.places, self.data):
            if name in place:
                return place[name].value
        return None


def _one(
    data: Dataset, groups: list[Dataset], file: int, number: int, pixels: Pixels, tokens: tuple[str, ...]
) -> Frame:
    look = _Look(data, groups)
    position, orientation = (
        _numbers(look("ImagePositionPatient"), 3),
        _numbers(look("ImageOrientationPatient"), 6),
    )
    spacing = _numbers(look("PixelSpacing"), 2)
    missing = [
        n
        for n, v in (
            ("ImagePositionPatient", position),
            ("ImageOrientationPatient", orientation),
            ("PixelSpacing", spacing),
        )
        if v is None
    ]
    if missing:
        raise Unusable("no_position", f"{missing[0]} is missing or is no list of finite numbers")
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or abs(row @ column) > 0.05 * lengths[0] * lengths[1] or min(spacing) <= 0:
        raise Unusable(
            "no_position",
            "ImageOrientationPatient are no two directions at right angles, or PixelSpacing is not positive",
        )
    orientation = (*map(float, row / lengths[0]), *map(float, column / lengths[1]))
    own = tuple(str(t).upper() for t in several(look("FrameType"))) or tokens
    if {"SUBTRACTION", "MIP", "MINIP", "PROJECTION IMAGE"} & set(own):
        raise Unusable("derived", "FrameType names a reformat, projection or subtraction")
    b_value = vendor.b_value(data, look)
    slope, intercept = vendor.scaling(data, look)
    facts = facts_of(data, look, own, orientation)
    return Frame(
        file, number, pixels, position, orientation, spacing, slope, intercept, facts, b_value, _time(look), _order(data, look)
    )  # fmt: skip


def _mosaic(data: Dataset, file: int, pixels: Pixels, tokens: tuple[str, ...]) -> Iterator[Frame]:
    """The tiles of a Siemens mosaic; the header's position is that of a plane as large as the whole mosaic."""
    count, normal = vendor.mosaic(data)
    if not count:
        raise Unusable(
            "no_position",
            "a mosaic whose number of slices stands neither in (0019,100A) nor in the CSA header",
        )
    whole = _one(data, [], file, 0, pixels, tokens)
    across = math.ceil(math.sqrt(count))
    rows, columns = pixels.rows // across, pixels.columns // across
    row, column = np.array(whole.orientation[:3]), np.array(whole.orientation[3:])
    up = np.cross(row, column) if normal is None else np.array(normal)
    gap = number_of(data.get("SpacingBetweenSlices")) or number_of(data.get("SliceThickness"))
    if not gap:
        raise Unusable("no_position", "a mosaic without SpacingBetweenSlices")
    corner = (
        np.array(whole.position)
        + row * whole.spacing[1] * (pixels.columns - columns) / 2
        + column * whole.spacing[0] * (pixels.rows - rows) / 2
    )
    for number in range(count):
        top, left = number // across * rows, number % across * columns
        at = corner + up * gap * number
        yield Frame(
            file, number, pixels, tuple(map(float, at)), whole.orientation, whole.spacing, whole.slope, whole.intercept, whole.facts,
            whole.b_value, whole.time_s, whole.order, (top, left, rows, columns),
        )  # fmt: skip


def _grid(data: Dataset, file: int, pixels: Pixels, tokens: tuple[str, ...]) -> Iterator[Frame]:
    """The tiles of a United Imaging grid, each with a position of its own in (0065,1051)."""
    positions = vendor.grid_positions(data)
    if not positions:
        raise Unusable("no_position", "a grid of slices without positions in (0065,1051)")
    across = math.ceil(math.sqrt(len(positions)))
    rows, columns = pixels.rows // math.ceil(len(positions) / across), pixels.columns // across
    for number, position in enumerate(positions):
        here = Dataset()
        here.ImagePositionPatient = list(position)
        group = Dataset()
        group.PlanePositionSequence = [here]
        whole = _one(data, [group], file, 0, pixels, tokens)
        yield replace(whole, tile=(number // across * rows, number % across * columns, rows, columns))


def _time(look) -> float | None:
    """Seconds since midnight at which the frame was acquired."""
    for name in ("FrameAcquisitionDateTime", "FrameReferenceDateTime", "AcquisitionDateTime"):
        text = str(look(name) or "")
        if len(text) >= 14:
            return _clock(text[8:])
    trigger = number_of(look("TriggerTime"))
    if trigger:
        return trigger / 1000
    return _clock(str(look("AcquisitionTime") or ""))


def _clock(text: str) -> float | None:
    try:
        return int(text[0:2]) * 3600 + int(text[2:4]) * 60 + float(text[4:].split("+")[0].split("-")[0] or 0)
    except ValueError:
        return None


def _order(data: Dataset, look) -> tuple[float, ...]:
    """What sorts the repetitions of one position when b-value and time do not."""
    names = ("TemporalPositionIndex", "TemporalPositionIdentifier", "AcquisitionNumber")
    repeats = (number_of(look(name)) or 0.0 for name in names)
    return (*repeats, vendor.phase(data), number_of(look("InstanceNumber")) or 0.0)
