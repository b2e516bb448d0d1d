"""Extracts the image planes of a header: of one frame, many frames, a mosaic, a grid of slices, or a projection."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mmvae.case import PointMM
from mmvae.ingest.dicom import vendor
from mmvae.ingest.dicom.facts import PROJECTIONS, facts_of, modality_code, picture_facts, several
from mmvae.ingest.dicom.frame import Frame, Pixels
from mmvae.ingest.dicom.vendor import Look, number_of
from mmvae.ingest.skipped import Unusable

PROJECTED = {"SUB", "SUBTRACTION", "MIP", "MINIP", "PROJECTION", "PROJECTION IMAGE"}
REFORMATTED = {"MPR", "REFORMATTED"}
# A projection has no position in the patient: its columns are taken to run to the left and its rows to the back, as in a PNG.
NOMINAL_ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def frames_of(data: Dataset, file: int, pixels: Pixels) -> Iterator[Frame]:
    """Every image plane of a file.

    Raises:
        Unusable: if it shows no patient, is a screenshot, is derived, or does not say where its planes lie.
    """
    tokens = tuple(str(t).upper() for t in several(data.get("ImageType")))
    _refuse_unusable(data, pixels, tokens)
    by_frame = data.get("PerFrameFunctionalGroupsSequence")
    if by_frame:
        if len(by_frame) != pixels.frames:
            raise Unusable(
                "truncated",
                f"NumberOfFrames is {pixels.frames}, functional groups are given for {len(by_frame)}",
            )
        shared = data.get("SharedFunctionalGroupsSequence") or []
        for number, groups in enumerate(by_frame):
            yield _plane(data, [groups, *shared[:1]], file, number, pixels, tokens)
    elif "MOSAIC" in tokens:
        yield from _mosaic(data, file, pixels, tokens)
    elif "VFRAME" in tokens:
        yield from _grid(data, file, pixels, tokens)
    elif pixels.frames > 1:
        raise Unusable(
            "no_position", f"{pixels.frames} frames without functional groups that give their positions"
        )
    elif _is_projection(data):
        yield _picture(data, file, pixels, tokens)
    else:
        yield _plane(data, [], file, 0, pixels, tokens)


def _is_projection(data: Dataset) -> bool:
    return modality_code(data) in PROJECTIONS and "ImagePositionPatient" not in data


def _refuse_unusable(data: Dataset, pixels: Pixels, tokens: Sequence[str]) -> None:
    """Raises Unusable for objects that are never part of a case, whatever their geometry."""
    if modality_code(data) is None and data.get("Modality"):
        raise Unusable("not_image", "an object whose Modality does not show a patient")
    # A projection's description may name the examination: "skeletal survey".
    described = not _is_projection(data) and "localizer" in vendor.notions_of(data)
    if "LOCALIZER" in tokens or described:
        raise Unusable("localizer", "ImageType or the description says localizer")
    if str(data.get("BurnedInAnnotation") or "").upper() == "YES":
        raise Unusable("screenshot", "BurnedInAnnotation is YES: the picture may contain text")
    if pixels.samples != 1:
        raise Unusable(
            "screenshot", f"SamplesPerPixel is {pixels.samples}: a coloured picture, not a measurement"
        )
    reformats = REFORMATTED if "DERIVED" in tokens else set()
    if (PROJECTED | reformats) & set(tokens):
        raise Unusable("derived", "ImageType names a reformat, projection or subtraction")


class _Look:
    """A header's elements as one frame sees them: its own functional groups, the shared ones, then the top level."""

    def __init__(self, data: Dataset, groups: Sequence[Dataset]):
        self.places = [
            item
            for group in groups
            for element in group
            if element.VR == "SQ" and element.value
            for item in element.value[:1]
        ]
        self.places.append(data)

    def __call__(self, name: str | tuple[int, int]) -> Any:
        for place in self.places:
            if name in place:
                return place[name].value
        return None


def _plane(
    data: Dataset, groups: Sequence[Dataset], file: int, number: int, pixels: Pixels, tokens: tuple[str, ...]
) -> Frame:  # fmt: skip
    """A plane with a position in the patient."""
    look = _Look(data, groups)
    position, orientation, spacing = _geometry(look)
    own = tuple(str(t).upper() for t in several(look("FrameType"))) or tokens
    if {"SUBTRACTION", "MIP", "MINIP", "PROJECTION IMAGE"} & set(own):
        raise Unusable("derived", "FrameType names a reformat, projection or subtraction")
    slope, intercept = vendor.scaling(data, look)
    facts = facts_of(data, look, own, orientation)
    b_value = vendor.b_value(data, look)
    return Frame(
        file, number, pixels, position, orientation, spacing, slope, intercept, facts, b_value, time_of(look), order_of(data, look)
    )  # fmt: skip


def _geometry(look: Look) -> tuple[PointMM, tuple[float, ...], tuple[float, float]]:
    """Position, orientation as unit vectors, and spacing of a plane."""
    x, y, z = _required(look, "ImagePositionPatient", 3)
    orientation = _required(look, "ImageOrientationPatient", 6)
    spacing = _required(look, "PixelSpacing", 2)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.5 or abs(row @ column) > 0.05 * lengths[0] * lengths[1] or min(spacing) <= 0:
        raise Unusable(
            "no_position",
            "ImageOrientationPatient does not hold two directions at right angles, or PixelSpacing is not positive",
        )
    orientation = (*map(float, row / lengths[0]), *map(float, column / lengths[1]))
    return (x, y, z), orientation, (spacing[0], spacing[1])


def _required(look: Look, name: str, count: int) -> tuple[float, ...]:
    numbers = _numbers(look(name), count)
    if numbers is None:
        raise Unusable("no_position", f"{name} is missing or is not a list of finite numbers")
    return numbers


def _picture(data: Dataset, file: int, pixels: Pixels, tokens: tuple[str, ...]) -> Frame:
    """A projection as intended for display, with the largest value white (PS3.3 C.7.6.3.1.2) and pixels of the stated size."""
    spacing = None
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        numbers = _numbers(data.get(name), 2)
        if numbers is not None and min(numbers) > 0:
            spacing = (numbers[0], numbers[1])
            break
    slope, intercept = vendor.scaling(data, data.get)
    if str(data.get("PhotometricInterpretation") or "") == "MONOCHROME1":
        # The complement of the stored value: its largest and smallest possible values are swapped.
        top = -1 if pixels.signed else (1 << pixels.bits_stored) - 1
        slope, intercept = -slope, intercept + slope * top
    facts = picture_facts(data, tokens)
    if spacing is None:
        facts["spacing_assumed"] = True
    return Frame(
        file, 0, pixels, (0.0, 0.0, 0.0), NOMINAL_ORIENTATION, spacing or (1.0, 1.0), slope, intercept, facts, None, time_of(data.get),
        order_of(data, data.get), picture=True,
    )  # fmt: skip


def _mosaic(data: Dataset, file: int, pixels: Pixels, tokens: tuple[str, ...]) -> Iterator[Frame]:
    """The tiles of a Siemens mosaic; the header's position is that of a plane as large as the whole mosaic."""
    count, normal = vendor.mosaic(data)
    if not count:
        raise Unusable(
            "no_position",
            "a mosaic whose number of slices is neither in (0019,100A) nor in the CSA header",
        )
    whole = _plane(data, [], file, 0, pixels, tokens)
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
        x, y, z = map(float, corner + up * gap * number)
        yield replace(whole, number=number, position=(x, y, z), tile=(top, left, rows, columns))


def _grid(data: Dataset, file: int, pixels: Pixels, tokens: tuple[str, ...]) -> Iterator[Frame]:
    """The tiles of a United Imaging grid, each with a position of its own in (0065,1051)."""
    positions = vendor.grid_positions(data)
    if not positions:
        raise Unusable("no_position", "a grid of slices without positions in (0065,1051)")
    across = math.ceil(math.sqrt(len(positions)))
    rows, columns = pixels.rows // math.ceil(len(positions) / across), pixels.columns // across
    for number, position in enumerate(positions):
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = list(position)
        group.PlanePositionSequence = [place]
        plane = _plane(data, [group], file, 0, pixels, tokens)
        yield replace(plane, tile=(number // across * rows, number % across * columns, rows, columns))


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None."""
    try:
        numbers = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def three_numbers(value: Any) -> PointMM | None:
    """Three finite numbers, or None."""
    numbers = _numbers(value, 3)
    return None if numbers is None else (numbers[0], numbers[1], numbers[2])


def time_of(look: Look) -> float | None:
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


def order_of(data: Dataset, look: Look) -> tuple[float, ...]:
    """Numbers that sort the repetitions of one position if b-value and time do not."""
    names = ("TemporalPositionIndex", "TemporalPositionIdentifier", "AcquisitionNumber")
    repeats = (number_of(look(name)) or 0.0 for name in names)
    return (*repeats, vendor.phase(data), number_of(look("InstanceNumber")) or 0.0)
