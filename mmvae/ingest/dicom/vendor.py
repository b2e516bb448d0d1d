"""Vendor-specific elements: b-values, scaling, mosaics and phases; and notions named in a series description.

Sources: PS3.3 (standard elements), DICOM conformance statements of the vendors as dcm2niix documents them.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

Look = Callable[[Any], Any]  # an element's value by keyword or tag, as one frame sees it


def _private(data: Dataset, group: int, creator: str, element: int) -> Any:
    """A private element by its creator; else in block 10, where scanners put it and where anonymisers may remove the creator."""
    try:
        return data.private_block(group, creator)[element].value
    except KeyError:
        orphan = data.get((group, 0x1000 + element))
        return None if orphan is None else orphan.value


def number_of(value: Any) -> float | None:
    """The first value as a finite number, or None; also from the bytes of a private element of unknown VR."""
    if isinstance(value, bytes):  # text, or a little-endian number
        text = value.strip(b"\x00 ")
        if re.fullmatch(rb"[-+]?[0-9.eE+-]+(\\.*)?", text):
            value = text.decode("ascii").split("\\")[0]
        elif len(value) == 8:
            value = float(np.frombuffer(value, "<f8")[0])
        elif len(value) == 4:
            value = float(np.frombuffer(value, "<f4")[0])
        else:
            return None
    if isinstance(value, str):
        value = value.split("\\")[0]
    elif isinstance(value, Sequence) and value:
        value = value[0]
    try:
        number = float(value)  # pyright: ignore[reportArgumentType] - float() raises on other types
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def manufacturer(data: Dataset) -> str:
    """The vendor's short name, or ""."""
    text = str(data.get("Manufacturer") or "").lower()
    for name in ("siemens", "philips", "ge medical", "toshiba", "canon", "uih", "hitachi", "fujifilm"):
        if name in text:
            return {"ge medical": "ge", "canon": "toshiba"}.get(name, name)
    return "ge" if text.strip() in ("ge", "ge healthcare") else ""


def b_value(data: Dataset, look: Look) -> float | None:
    """b in s/mm², from the element that this vendor uses; None if nothing says that the frame is diffusion-weighted."""
    tokens = {str(t).upper() for t in (data.get("ImageType") or ())}
    if "ADC" in tokens:
        return None
    b = number_of(look("DiffusionBValue"))
    if b is not None:
        return _plausible(b)
    vendor = manufacturer(data)
    if vendor == "siemens" or not vendor:
        b = number_of(_private(data, 0x0019, "SIEMENS MR HEADER", 0x0C))
        if b is None:
            b = _csa_b_value(data)
        if b is None:
            match = re.search(
                r"(?:^|[^a-z])b(\d{1,5})(?!\d*_\d)",
                str(data.get("SequenceName") or "").replace("ep_b", "ep b"),
            )
            b = float(match.group(1)) if match else None
        if b is not None:
            return _plausible(b)
    if vendor == "ge":
        b = number_of(_private(data, 0x0043, "GEMS_PARM_01", 0x39))
        # (0043,1039) is filled in every GE image; only echo-planar ones are diffusion.
        sequence = data.get("ScanningSequence")
        planar = "EP" in ([sequence] if isinstance(sequence, str) else list(sequence or ()))
        return _plausible(b % 1e9) if b is not None and planar and _ge_diffusion(data) else None
    if vendor == "philips":
        b = number_of(_private(data, 0x2001, "Philips Imaging DD 001", 0x03))
        return _plausible(b) if b is not None and _philips_diffusion(data, look, b) else None
    if vendor == "uih":
        return _plausible(number_of(_private(data, 0x0065, "Image Private Header", 0x09)))
    if vendor == "toshiba":
        match = re.match(r"\s*b=(\d+)", str(data.get("ImageComments") or ""))
        if match:
            return _plausible(float(match.group(1)))
        return 0.0 if "diffusion" in notions_of(data) else None
    return None


def _plausible(value: float | None) -> float | None:
    return float(round(value, 3)) if value is not None and 0 <= value <= 20000 else None


def _ge_diffusion(data: Dataset) -> bool:
    """GE marks diffusion by directions (0019,10E0) or by the name of the sequence."""
    directions = number_of(_private(data, 0x0019, "GEMS_ACQU_01", 0xE0))
    name = " ".join(str(data.get(n) or "") for n in ("SeriesDescription", "ProtocolName")).lower()
    internal = str(_private(data, 0x0019, "GEMS_ACQU_01", 0x9E) or "").lower()
    return (
        bool(directions)
        or bool(re.search("dwi|diff", name))
        or "dti" in internal
        or "epi2" in internal
        or "diff" in internal
    )


def _philips_diffusion(data: Dataset, look: Look, b: float) -> bool:
    """Whether a Philips frame is diffusion: its private b-value, set in other series too, is above 0, or the header says so."""
    name = str(data.get("SeriesDescription") or "").lower()
    stated = str(look("AcquisitionContrast") or "") == "DIFFUSION" or bool(b)
    return stated or bool(re.search(r"dwi|dti|diff|adc|\bb\d{2,4}", name))


def _csa(data: Dataset) -> Mapping[str, Any] | None:
    if (0x0029, 0x1010) not in data:
        return None
    from nibabel.nicom import csareader

    try:
        return csareader.read(data[0x0029, 0x1010].value)["tags"]
    except (csareader.CSAReadError, KeyError, ValueError, TypeError, IndexError, UnicodeDecodeError):
        return None


def _csa_number(tags: Mapping, name: str) -> tuple[float, ...]:
    items = tags.get(name, {}).get("items", [])
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError):
        return ()


def _csa_b_value(data: Dataset) -> float | None:
    tags = _csa(data)
    numbers = _csa_number(tags, "B_value") if tags else ()
    return numbers[0] if numbers else None


def mosaic(data: Dataset) -> tuple[int, tuple[float, ...] | None]:
    """Number of slices in a Siemens mosaic and, if the CSA header holds it, the direction in which they are stacked."""
    tags = _csa(data)
    count = number_of(_private(data, 0x0019, "SIEMENS MR HEADER", 0x0A))
    normal = None
    if tags:
        counts = _csa_number(tags, "NumberOfImagesInMosaic")
        count = counts[0] if counts else count
        direction = _csa_number(tags, "SliceNormalVector")
        normal = direction if len(direction) == 3 else None
    return (int(count) if count and 0 < count <= 1024 else 0), normal


def grid_positions(data: Dataset) -> list[tuple[float, ...]]:
    """ImagePositionPatient of each tile of a United Imaging grid."""
    frames = data.get((0x0065, 0x1051))
    if frames is None or frames.VR != "SQ":
        return []
    return [
        tuple(float(v) for v in item.ImagePositionPatient)
        for item in frames.value
        if "ImagePositionPatient" in item
    ]


def scaling(data: Dataset, look: Look) -> tuple[float, float]:
    """Slope and intercept from stored to modality value, or to the floating-point value if Philips's scale slope (2005,100E) is set.

    Philips: FP = (stored · RS + RI) / (RS · SS) (Chenevert et al. 2014, doi:10.1593/tlo.13811, eq. 2), comparable between phases.
    """
    slope = number_of(look("RescaleSlope"))
    intercept = number_of(look("RescaleIntercept"))
    slope, intercept = slope or 1.0, intercept or 0.0
    if manufacturer(data) == "philips":
        private = number_of(look((0x2005, 0x100E)))
        if private:
            return 1.0 / private, intercept / (slope * private)
    return slope, intercept


def phase(data: Dataset) -> float:
    """The vendor's own number of a dynamic phase, or 0."""
    return (
        number_of(_private(data, 0x2001, "Philips Imaging DD 001", 0x81))
        if manufacturer(data) == "philips"
        else None
    ) or 0.0


def scanning_sequence(look: Look) -> list[str]:
    """Codes of ScanningSequence from the elements that enhanced objects use instead (PS3.3 C.8.13.5.2)."""
    echo = str(look("EchoPulseSequence") or "")
    sequence = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(echo, [])
    if str(look("EchoPlanarPulseSequence") or "") == "YES":
        sequence = ["EP", *sequence]
    if str(look("InversionRecovery") or "") == "YES":
        sequence = [*sequence, "IR"]
    return sequence


_NOTIONS = {
    "t1_weighted": r"t1", "t2_weighted": r"t2(?!\*|star)", "fluid_attenuated": r"flair|dark.?fluid", "diffusion": r"dwi|diff|dti|epi?2?d?_?b\d", "adc_map": r"adc|apparent",
    "proton_density": r"\bpd\b|proton", "contrast_given": r"\bgd\b|gado|post.?con|\+c\b|\bc\+|inject[ée]?|dyn(?!dist)|dce|perf|twist|produit|\bpdc\b|vibe.?dyn|multi.?phase",
    "before_contrast": r"pre.?con|\bpre\b|sans.?(inj|contraste|iv)|avant", "fat_saturated": r"fat.?sat|\bfs\b|_fs|fatsat|spair|spir\b|stir|dixon.?w|sat.?graisse|chemsat|\bfatsup|suppression.?de.?graisse",
    "axial": r"\b(ax|axial|tra|transv)", "field_map": r"\bb0\b|field.?map", "localizer": r"local|scout|survey|rep[ée]rage|3.?plan",
}  # fmt: skip


def notions_of(data: Dataset) -> frozenset[str]:
    """Notions of a closed list that the descriptions name, in English or French; the text itself is not kept."""
    text = (
        " ".join(str(data.get(n) or "") for n in ("SeriesDescription", "ProtocolName"))
        .lower()
        .replace("_", " ")
    )
    return frozenset(name for name, pattern in _NOTIONS.items() if text.strip() and re.search(pattern, text))


def fat_saturated(look: Look, notions: frozenset[str]) -> bool | None:
    """Whether fat is suppressed, by ScanOptions or the functional group, else by the description; None if none of them says."""
    option = look("ScanOptions")
    options = {str(o).upper() for o in ([option] if isinstance(option, str) else option or ())}
    if (
        options & {"FS", "SFS", "FATSAT", "SPIR", "SPAIR", "FSAT", "CHESS", "STIR"}
        or "fat_saturated" in notions
    ):
        return True
    group = str(look("SpectrallySelectedSuppression") or "")
    if group:
        return group == "FAT"
    return False if option is not None or notions else None


def contrast_agent(data: Dataset, notions: frozenset[str]) -> bool:
    """Whether a contrast agent had been given, by ContrastBolusAgent, else by the description."""
    agent = str(data.get("ContrastBolusAgent") or "").strip().lower()
    if agent in ("none", "no", "non", "n/a"):
        return False
    if "ContrastBolusAgentSequence" in data or agent:
        return "before_contrast" not in notions
    return "contrast_given" in notions and "before_contrast" not in notions
