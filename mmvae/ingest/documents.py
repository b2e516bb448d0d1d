"""What is no picture in a study: structured reports, encapsulated text and PDF, segmentations and contours."""

import io
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from mmvae.ingest.skipped import Unusable


def text_of(data: Dataset, kind: str) -> str:
    """The words of a structured report (PS3.3 C.17.3), or of an encapsulated text or PDF (C.24.2).

    Raises:
        Unusable: where there are none.
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
        raise Unusable("not_image", "a document without a word")
    return text.strip()


def _lines(item: Dataset, depth: int) -> list[str]:
    """Concept and value of each content item; names of people (PNAME) and identifiers (UIDREF) are left out."""
    if depth > 32:
        raise Unusable("limit", "the report nests deeper than 32 levels")
    made = []
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
            made.append(name)
        if value:
            made.append(f"{name}: {value}" if name else value)
        made += _lines(content, depth + 1)
    return made


def _pdf(content: bytes) -> str:
    import pypdf

    try:
        return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)
    except Exception as error:  # pypdf raises what its broken input makes of it
        raise Unusable(
            "not_image", f"the encapsulated PDF cannot be read ({type(error).__name__})"
        ) from error


def lesion_points(path: Path) -> tuple[tuple[float, float, float], ...]:
    """The centre of each segment of a SEG, or of each contoured structure of an RTSTRUCT, in patient LPS mm.

    Raises:
        Unusable: where there is none.
    """
    data = pydicom.dcmread(path)
    points = _contours(data) if str(data.Modality) == "RTSTRUCT" else _segments(data)
    if not points:
        raise Unusable("not_image", "a segmentation or structure set without a marked voxel or contour")
    return tuple(points)


def _contours(data: Dataset) -> list[tuple[float, float, float]]:
    made = []
    for roi in data.get("ROIContourSequence") or []:
        drawn = [
            np.array(c.ContourData, float).reshape(-1, 3)
            for c in roi.get("ContourSequence") or []
            if c.get("ContourData")
        ]
        if drawn:
            made.append(tuple(float(v) for v in np.concatenate(drawn).mean(0).round(3)))
    return made


def _segments(data: Dataset) -> list[tuple[float, float, float]]:
    shared = data.SharedFunctionalGroupsSequence[0]
    planes = data.pixel_array
    planes = planes[None] if planes.ndim == 2 else planes
    sums: dict[int, np.ndarray] = {}
    for plane, groups in zip(planes, data.PerFrameFunctionalGroupsSequence):
        rows, columns = np.nonzero(plane)
        if not len(rows):
            continue
        geometry = {
            name: next(
                (
                    g[sequence][0].get(name)
                    for g in (groups, shared)
                    if sequence in g and name in g[sequence][0]
                ),
                None,
            )
            for sequence, name in (
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),
            )
        }
        if any(v is None for v in geometry.values()):
            raise Unusable("no_position", "a segmentation's frame without position, orientation or spacing")
        origin = np.array(geometry["ImagePositionPatient"], float)
        row, column = np.array(geometry["ImageOrientationPatient"], float).reshape(2, 3)
        spacing = np.array(geometry["PixelSpacing"], float)
        total = origin * len(rows) + row * spacing[1] * columns.sum() + column * spacing[0] * rows.sum()
        segment = groups.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        number = int(segment[0].ReferencedSegmentNumber) if segment else 1
        sums[number] = sums.get(number, np.zeros(4)) + np.array([*total, len(rows)])
    return [tuple(float(v) for v in (s[:3] / s[3]).round(3)) for _, s in sorted(sums.items())]
