"""Reads the DICOM objects of a study that are not images: structured reports, text, PDF, segmentations and contours."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mmvae.case import PointMM
from mmvae.ingest.dicom.dataset import read_whole
from mmvae.ingest.skipped import Unusable


def text_of(data: Dataset) -> str:
    """The text of a structured report (PS3.3 C.17.3), or of an encapsulated text or PDF (C.24.2).

    Raises:
        Unusable: if it holds no text.
    """
    if "EncapsulatedDocument" in data:
        media, content = (
            str(data.get("MIMETypeOfEncapsulatedDocument") or ""),
            bytes(data.EncapsulatedDocument),
        )
        text = (
            _pdf(content)
            if "pdf" in media or content[:4] == b"%PDF"
            else content.rstrip(b"\x00").decode("utf-8", "replace")
        )
    else:
        text = "\n".join(_lines(data, 0))
    if not text.strip():
        raise Unusable("not_image", "a document without text")
    return text.strip()


def _lines(item: Dataset, depth: int) -> list[str]:
    """Concept and value of each content item; names of people (PNAME) and identifiers (UIDREF) are left out."""
    if depth > 32:
        raise Unusable("limit", "the report nests deeper than 32 levels")
    lines: list[str] = []
    for content in item.get("ContentSequence") or []:
        concept = content.get("ConceptNameCodeSequence")
        name = str(concept[0].get("CodeMeaning") or "") if concept else ""
        kind, value = str(content.get("ValueType") or ""), ""
        if kind == "TEXT":
            value = str(content.get("TextValue") or "")
        elif kind == "CODE" and content.get("ConceptCodeSequence"):
            value = str(content.ConceptCodeSequence[0].get("CodeMeaning") or "")
        elif kind == "NUM" and content.get("MeasuredValueSequence"):
            measured = content.MeasuredValueSequence[0]
            unit = measured.get("MeasurementUnitsCodeSequence")
            value = f"{measured.get('NumericValue')} {unit[0].get('CodeValue') if unit else ''}".strip()
        elif kind == "CONTAINER" and name:
            lines.append(name)
        if value:
            lines.append(f"{name}: {value}" if name else value)
        lines += _lines(content, depth + 1)
    return lines


def _pdf(content: bytes) -> str:
    import pypdf

    try:
        return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)
    except Exception as error:  # pypdf raises all kinds of errors on broken input
        raise Unusable(
            "not_image", f"the encapsulated PDF cannot be read ({type(error).__name__})"
        ) from error


def lesion_points(path: Path) -> tuple[PointMM, ...]:
    """The centre of each segment of a SEG, or of each contoured structure of an RTSTRUCT, in patient LPS mm.

    Raises:
        Unusable: if there is none.
    """
    data = read_whole(path)
    points = _contours(data) if str(data.Modality) == "RTSTRUCT" else _segments(data)
    if not points:
        raise Unusable("not_image", "a segmentation or structure set without a marked voxel or contour")
    return tuple(points)


def _point(xyz: np.ndarray) -> PointMM:
    x, y, z = map(float, xyz.round(3))
    return x, y, z


def _contours(data: Dataset) -> list[PointMM]:
    points = []
    for roi in data.get("ROIContourSequence") or []:
        contours = [
            np.array(contour.ContourData, float).reshape(-1, 3)
            for contour in roi.get("ContourSequence") or []
            if contour.get("ContourData")
        ]
        if contours:
            points.append(_point(np.concatenate(contours).mean(0)))
    return points


def _segments(data: Dataset) -> list[PointMM]:
    shared = data.SharedFunctionalGroupsSequence[0]
    planes = data.pixel_array
    planes = planes[None] if planes.ndim == 2 else planes
    sums: dict[int, np.ndarray] = {}  # by segment: sum of its voxels' positions, and their number
    for plane, groups in zip(planes, data.PerFrameFunctionalGroupsSequence):
        rows, columns = np.nonzero(plane)
        if not len(rows):
            continue
        places = (groups, shared)
        origin = _from_groups(places, "PlanePositionSequence", "ImagePositionPatient")
        row, column = _from_groups(places, "PlaneOrientationSequence", "ImageOrientationPatient").reshape(
            2, 3
        )
        spacing = _from_groups(places, "PixelMeasuresSequence", "PixelSpacing")
        total = origin * len(rows) + row * spacing[1] * columns.sum() + column * spacing[0] * rows.sum()
        segment = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        number = int(segment[0].ReferencedSegmentNumber) if segment else 1
        sums[number] = sums.get(number, np.zeros(4)) + np.array([*total, len(rows)])
    return [_point(total[:3] / total[3]) for _, total in sorted(sums.items())]


def _from_groups(places: Sequence[Dataset], sequence: str, name: str) -> np.ndarray:
    """An element of a frame's own functional groups, else of the shared ones."""
    for place in places:
        if sequence in place and name in place[sequence][0]:
            value: Any = place[sequence][0].get(name)
            return np.array(value, float)
    raise Unusable("no_position", "a segmentation's frame without position, orientation or spacing")
