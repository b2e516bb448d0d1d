"""Finds the values in a DICOM header that identify somebody (PS3.15 E)."""

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

# These elements describe the image; of their words, only those that mix letters and digits may be an identifier.
_DESCRIBING = frozenset(
    [
        "SeriesDescription",
        "ProtocolName",
        "StudyDescription",
        "RequestedProcedureDescription",
        "PerformedProcedureStepDescription",
        "SequenceName",
        "Manufacturer",
        "ManufacturerModelName",
        "SoftwareVersions",
        "BodyPartExamined",
        "ContrastBolusAgent",
        "ReceiveCoilName",
        "TransmitCoilName",
        "PulseSequenceName",
        "CodeMeaning",
        "CodeValue",
        "CodingSchemeDesignator",
        "ImageComments",
        "TextValue",
        "SpecificCharacterSet",
    ]
)
_TEXT_VRS = frozenset(("PN", "LO", "SH", "ST", "LT", "UT", "UC", "UI", "AE", "DA", "UN"))


def identifiers_of(data: Dataset) -> set[str]:
    """Every value of a text VR that may identify somebody, at any depth and in private elements too; reports must lose them."""
    found: set[str] = set()
    for element in data.iterall():
        if element.VR not in _TEXT_VRS or element.keyword in (
            "SOPClassUID",
            "MediaStorageSOPClassUID",
            "TransferSyntaxUID",
        ):
            continue
        value = element.value
        if element.VR == "UN":
            if not isinstance(value, bytes) or len(value) > 256:
                continue
            value = value.decode("latin-1") if value.rstrip(b"\x00 ").isascii() else ""
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        for item in value if several else [value]:
            text = str(item or "").strip("\x00 ")
            if element.keyword in _DESCRIBING or len(text) > 64:
                words = re.findall(r"[\w.-]{6,}", text)
                found |= {w for w in words if re.search(r"\d", w) and re.search(r"[^\W\d_]", w)}
            elif len(text) >= 3:
                found.add(text)
    return found
