"""What may leave a header: numbers, and codes from closed lists (FORMATS: "Facts"). Free text is parsed, never copied."""

import numpy as np
from pydicom.dataset import Dataset

from mmvae.ingest import vendor
from mmvae.ingest.vendor import number_of

# Tokens of ImageType (PS3.3 C.7.6.1.1.2, C.8.3.1.1.1) that may leave a header; a name written there may not.
IMAGE_TYPE_TOKENS = frozenset([
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "MPR", "MIP", "MINIP", "PROJECTION", "IMAGE",
    "OTHER", "NONE", "MIXED", "M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE_MAP", "REAL", "IMAGINARY", "M_SE", "M_FFE",
    "M_IR", "T1", "T2", "T2_STAR", "PROTON_DENSITY", "DIFFUSION", "ADC", "TRACEW", "TRACE", "EADC", "FA", "DIFFUSION_ANISO",
    "PERFUSION", "SUB", "SUBTRACTION", "W", "F", "IP", "OP", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE", "ND",
    "NORM", "DIS2D", "DIS3D", "MOSAIC", "SE", "FFE", "IR", "MFSPLIT", "VFRAME", "REFORMATTED", "RESAMPLED", "DYNAMIC",
    "CONTRAST", "FLUID_ATTENUATED", "STIR", "ISOTROPIC", "MEAN",
])  # fmt: skip
SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})


def several(value) -> list:
    """The values of an element that may hold none, one or more."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else list(value)


def record_of(data: Dataset) -> dict[str, float | str]:
    """Age (over 89 is 90), sex, weight and height, where the header has them (FORMATS: "Facts")."""
    made: dict[str, float | str] = {}
    age = str(data.get("PatientAge") or "")
    if len(age) == 4 and age[:3].isdigit() and age[:3] != "000" and age[3] in "DWMY":
        years = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[age[3]] * int(age[:3])
        made["age_years"] = min(90.0, round(years, 2))
    if str(data.get("PatientSex") or "") in ("F", "M", "O"):
        made["sex"] = str(data.PatientSex)
    for field_name, name, low, high in (
        ("weight_kg", "PatientWeight", 0.2, 400),
        ("height_m", "PatientSize", 0.2, 2.5),
    ):
        value = number_of(data.get(name))
        if value is not None and low <= value <= high:
            made[field_name] = round(value, 3)
    return made


def plane_of(orientation: tuple[float, ...]) -> str:
    """axial, coronal or sagittal: the patient axis nearest to the normal; oblique beyond 45° is still named by it."""
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def facts_of(data: Dataset, look, tokens: tuple[str, ...], orientation: tuple[float, ...]) -> dict:
    """The allow-listed facts: numbers, and codes from closed lists. Free text is parsed, never copied."""
    facts: dict = {"Modality": "MR", "plane": plane_of(orientation)}
    kept = [t for t in tokens if t in IMAGE_TYPE_TOKENS]
    if kept:
        facts["ImageType"] = kept
    for name in (
        "RepetitionTime",
        "InversionTime",
        "FlipAngle",
        "EchoTrainLength",
        "MagneticFieldStrength",
        "SliceThickness",
    ):
        value = number_of(look(name))
        if value is not None and (value > 0 or name == "EchoTrainLength"):
            facts[name] = round(value, 3)
    echo = number_of(look("EffectiveEchoTime")) or number_of(look("EchoTime"))
    if echo:
        facts["EchoTime"] = round(echo, 3)
    sequence = [s for s in map(str, several(look("ScanningSequence"))) if s in SEQUENCES]
    if not sequence:
        sequence = vendor.scanning_sequence(look)
    if sequence:
        facts["ScanningSequence"] = sequence
    for name, codes in (("MRAcquisitionType", {"2D", "3D"}), ("AcquisitionContrast", IMAGE_TYPE_TOKENS)):
        value = str(look(name) or "")
        if value in codes:
            facts[name] = value
    words = vendor.words(data)
    saturated = vendor.fat_saturated(look, words)
    if saturated is not None:
        facts["fat_saturated"] = saturated
    facts["contrast_agent"] = vendor.contrast_agent(data, look, words)
    if words:
        facts["described_as"] = sorted(words)
    return facts
