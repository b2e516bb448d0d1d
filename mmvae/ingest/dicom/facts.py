"""The facts that may leave a header: numbers, and codes from closed lists (FORMATS: "Facts"). Free text is never copied."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from mmvae.case import Value
from mmvae.ingest.dicom import vendor
from mmvae.ingest.dicom.vendor import Look, number_of

# Modality (PS3.3 C.7.3.1.1.1): projections, which have no position in the patient, and other modalities that show a patient.
PROJECTIONS = frozenset({"CR", "DX", "MG", "IO", "PX", "RF", "XA"})
IMAGING = PROJECTIONS | {"MR", "CT", "PT", "NM", "US", "OCT", "OPT", "BMD"}

# Tokens of ImageType (PS3.3 C.7.6.1.1.2, C.8.3.1.1.1) that may leave a header; somebody's name in it may not.
IMAGE_TYPE_TOKENS = frozenset([
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "MPR", "MIP", "MINIP", "PROJECTION", "IMAGE",
    "OTHER", "NONE", "MIXED", "M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE_MAP", "REAL", "IMAGINARY", "M_SE", "M_FFE",
    "M_IR", "T1", "T2", "T2_STAR", "PROTON_DENSITY", "DIFFUSION", "ADC", "TRACEW", "TRACE", "EADC", "FA", "DIFFUSION_ANISO",
    "PERFUSION", "SUB", "SUBTRACTION", "W", "F", "IP", "OP", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE", "ND",
    "NORM", "DIS2D", "DIS3D", "MOSAIC", "SE", "FFE", "IR", "MFSPLIT", "VFRAME", "REFORMATTED", "RESAMPLED", "DYNAMIC",
    "CONTRAST", "FLUID_ATTENUATED", "STIR", "ISOTROPIC", "MEAN",
])  # fmt: skip
SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
# ViewPosition (PS3.3 C.8.4.5, CID 4014 by its codes) and ImageLaterality.
VIEWS = frozenset(
    {"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "CC", "MLO", "ML", "LM", "XCC", "LAT", "LATERAL"}
)
LATERALITY = frozenset({"R", "L", "U", "B"})


def several(value: Any) -> list[Any]:
    """The values of an element that may hold none, one or more."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)


def modality_code(data: Dataset) -> str | None:
    """The header's Modality if it is one that shows a patient; any other value may be free text, and gives None."""
    code = str(data.get("Modality") or "")
    return code if code in IMAGING else None


def record_of(data: Dataset) -> dict[str, Value]:
    """Age (over 89 becomes 90), sex, weight and height, as far as the header has them (FORMATS: "Facts")."""
    record: dict[str, Value] = {}
    age = str(data.get("PatientAge") or "")
    if len(age) == 4 and age[:3].isdigit() and age[:3] != "000" and age[3] in "DWMY":
        years = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[age[3]] * int(age[:3])
        record["age_years"] = min(90.0, round(years, 2))
    if str(data.get("PatientSex") or "") in ("F", "M", "O"):
        record["sex"] = str(data.PatientSex)
    for field_name, name, low, high in (
        ("weight_kg", "PatientWeight", 0.2, 400),
        ("height_m", "PatientSize", 0.2, 2.5),
    ):
        value = number_of(data.get(name))
        if value is not None and low <= value <= high:
            record[field_name] = round(value, 3)
    return record


def plane_of(orientation: tuple[float, ...]) -> str:
    """axial, coronal or sagittal, by the patient axis nearest to the normal, however oblique the plane is."""
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def facts_of(
    data: Dataset, look: Look, tokens: Iterable[str], orientation: tuple[float, ...]
) -> dict[str, Any]:
    """The facts that may leave the header of a plane with a position in the patient.

    Args:
        data: The header.
        look: Looks up its elements as they apply to the frame.
        tokens: Tokens of ImageType or FrameType.
        orientation: Direction of row and column in patient LPS.
    """
    facts = _modality(data) | {"plane": plane_of(orientation)} | _image_type(tokens)
    if facts.get("Modality", "MR") != "MR":
        thickness = number_of(look("SliceThickness"))
        return facts | (
            {"SliceThickness": round(thickness, 3)} if thickness is not None and thickness > 0 else {}
        )
    return facts | _mr_timing(look) | _mr_codes(look) | _mr_notions(data, look)


def picture_facts(data: Dataset, tokens: Iterable[str]) -> dict[str, Any]:
    """The facts that may leave the header of a projection."""
    facts = _modality(data) | _image_type(tokens)
    for name, codes in (("ViewPosition", VIEWS), ("ImageLaterality", LATERALITY)):
        code = str(data.get(name) or "")
        if code in codes:
            facts[name] = code
    return facts


def _modality(data: Dataset) -> dict[str, Any]:
    code = modality_code(data)
    return {"Modality": code} if code else {}


def _image_type(tokens: Iterable[str]) -> dict[str, Any]:
    allowed = [token for token in tokens if token in IMAGE_TYPE_TOKENS]
    return {"ImageType": allowed} if allowed else {}


def _mr_timing(look: Look) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in ("RepetitionTime", "InversionTime", "FlipAngle", "EchoTrainLength", "MagneticFieldStrength", "SliceThickness"):  # fmt: skip
        value = number_of(look(name))
        if value is not None and (value > 0 or name == "EchoTrainLength"):
            facts[name] = round(value, 3)
    echo = number_of(look("EffectiveEchoTime")) or number_of(look("EchoTime"))
    return facts | ({"EchoTime": round(echo, 3)} if echo else {})


def _mr_codes(look: Look) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    sequence = [s for s in map(str, several(look("ScanningSequence"))) if s in SEQUENCES]
    if not sequence:
        sequence = vendor.scanning_sequence(look)
    if sequence:
        facts["ScanningSequence"] = sequence
    for name, codes in (("MRAcquisitionType", {"2D", "3D"}), ("AcquisitionContrast", IMAGE_TYPE_TOKENS)):
        value = str(look(name) or "")
        if value in codes:
            facts[name] = value
    return facts


def _mr_notions(data: Dataset, look: Look) -> dict[str, Any]:
    """Notions named in the description; and fat saturation and contrast agent, for which it stands in if elements are missing."""
    facts: dict[str, Any] = {}
    notions = vendor.notions_of(data)
    saturated = vendor.fat_saturated(look, notions)
    if saturated is not None:
        facts["fat_saturated"] = saturated
    facts["contrast_agent"] = vendor.contrast_agent(data, notions)
    if notions:
        facts["described_as"] = sorted(notions)
    return facts
