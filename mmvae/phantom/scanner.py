"""Scans a digital patient: turns tissue maps by the signal equations into series with geometry, timing and header facts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvae.phantom.anatomy import TISSUES, Anatomy, build, smooth_noise
from mmvae.phantom.patient import Patient, parameters
from mmvae.phantom.physics import (
    diffusion_weighting,
    enhanced_t1,
    extended_tofts,
    rician,
    spin_echo,
    spoiled_gradient_echo,
)

ROLES = ("t1", "t1_fs", "t2", "dwi", "contrast")
KIND = {"t1": "t1", "t1_fs": "t1", "t2": "t2", "dwi": "dwi", "contrast": "contrast"}


@dataclass(frozen=True)
class Series:
    """One acquired stack: volumes (n, z, y, x) int16, matrix from voxel (x, y, z) to LPS mm, and facts under DICOM keywords."""

    role: str
    volumes: NDArray[np.int16]
    affine: NDArray[np.float64]
    facts: Mapping


@dataclass(frozen=True)
class Examination:
    """All series of one patient on one scanner, the position of the lesion, and its mask on the first grid's geometry."""

    series: tuple[Series, ...]
    lesion_mm: tuple[float, float, float]
    side: str
    scanner: str


def _drawn_scanner(rng: np.random.Generator) -> str:
    return str(rng.choice(list(parameters()["scanners"])))


def scanner_of(patient: Patient) -> str:
    """The scanner that `examine` draws for this patient."""
    return _drawn_scanner(np.random.default_rng([patient.rng_seed % 2**32, 2]))


def anatomy_of(patient: Patient, scanner: str, protocol: str = "quick") -> Anatomy:
    """The patient's anatomy on this scanner's grid, with two layers per slice."""
    machine, size = parameters()["scanners"][scanner], parameters()["protocols"][protocol]
    field, depth = machine["spacing_mm"] * 128, machine["slice_mm"] * 16
    return build(patient, size["matrix"], 2 * size["slices"], field, depth)


def examine(patient: Patient, protocol: str = "quick", scanner: str | None = None) -> Examination:
    """The examination of a patient. Scanner, missing series and noise are drawn from the patient's seed, never from the class.

    Naming a scanner re-scans the same digital patient on another machine (the twin test).
    """
    p = parameters()
    rng = np.random.default_rng([patient.rng_seed % 2**32, 2])
    drawn = _drawn_scanner(rng)
    absent = {role: rng.random() < p["missing"]["series"][role] for role in ROLES}
    if all(absent.values()):
        absent["t2"] = False
    name = scanner or drawn
    machine, size = p["scanners"][name], p["protocols"][protocol]
    anatomy = anatomy_of(patient, name, protocol)
    shift = rng.uniform(-4, 4, 3)  # the table is never at the same place
    rng = np.random.default_rng([patient.rng_seed % 2**32, 3, list(p["scanners"]).index(name)])
    texture = 1 + 0.05 * rng.standard_normal(anatomy.label.shape, np.float32)
    series = []
    for role in ROLES:
        volumes, facts = _ACQUIRE[role](patient, machine, size, anatomy, texture, rng)
        if not absent[role]:
            series.append(
                Series(
                    role,
                    volumes,
                    _affine(anatomy, shift),
                    {**facts, "MagneticFieldStrength": machine["field"]},
                )
            )
    centre = tuple(float(c) for c in np.round(np.array(anatomy.lesion_mm) + shift, 2))
    return Examination(tuple(series), centre, anatomy.side, name)  # pyright: ignore[reportArgumentType]


def _affine(anatomy: Anatomy, shift) -> NDArray:
    dz, dy, dx = anatomy.step_mm
    affine = np.diag([dx, dy, 2 * dz, 1.0])
    affine[:3, 3] = np.add(anatomy.corner_mm, (0, 0, dz / 2)) + shift
    return affine


def _table(patient: Patient, machine: Mapping) -> dict[str, NDArray]:
    columns = {
        c: np.array([patient.tissues[t][c] for t in TISSUES]) for c in next(iter(patient.tissues.values()))
    }
    if machine["field"] == 1.5:
        columns["T1"] = columns["T1"] / 1.21
        columns["T2s"] = columns["T2s"] * 1.4
    return columns


@dataclass(frozen=True)
class _Receiver:
    """Effects of coil and receiver on every volume of one series, drawn once, so that only the tissue differs between volumes.

    The noise is shared by b-values and phases too, so that a subtraction of two of them is cleaner than in reality.
    """

    fat_left: NDArray[np.float32]
    bias: NDArray[np.float64]
    ghost: float
    in_phase: NDArray[np.float32]
    quadrature: NDArray[np.float32]
    scale: float
    gain: float


def _receiver(table, suppressed, machine, anatomy, rng) -> _Receiver:
    fat = table["fat"] * rng.uniform(0.9, 1.0) if suppressed else np.zeros_like(table["fat"])
    shape = (anatomy.label.shape[0] // 2, *anatomy.label.shape[1:])
    bias = np.exp(smooth_noise(rng, shape, (2, 3, 3), 0.2))  # what surface coils leave after correction
    ghost = rng.uniform(0, 0.03)
    sigma = machine["noise"] * rng.uniform(0.7, 1.3)
    in_phase, quadrature = (sigma * rng.standard_normal(shape, np.float32) for _ in range(2))
    gain = rng.uniform(0.8, 1.2)
    return _Receiver((1 - fat).astype(np.float32), bias, ghost, in_phase, quadrature, machine["scale"], gain)


def _image(signal, receiver, anatomy, texture, low_resolution=False):
    """Tissue signals → int16 volume: fat saturation, texture, partial volume, coil bias, ghosts, Rician noise, scaling."""
    signal = np.asarray(signal, np.float32) * receiver.fat_left
    fine = signal[anatomy.label]
    fine *= texture
    volume = fine[0::2] + fine[1::2]  # partial volume of thick slices
    volume /= 2
    if low_resolution:  # echo-planar imaging: half the matrix, shown interpolated
        small = (
            volume[:, 0::2, 0::2] + volume[:, 1::2, 0::2] + volume[:, 0::2, 1::2] + volume[:, 1::2, 1::2]
        ) / 4
        volume = small.repeat(2, 1).repeat(2, 2)
    volume = volume * receiver.bias  # float64 from here
    ghost = np.roll(volume, volume.shape[1] // 3, 1)
    ghost *= receiver.ghost
    volume += ghost
    top = float(np.percentile(volume[::4, ::4, ::4], 99.5)) or 1.0
    volume /= top
    noisy = rician(volume, receiver.in_phase, receiver.quadrature)
    for factor in (1000, receiver.scale, receiver.gain):
        noisy *= factor
    return noisy.clip(0, 32000, out=noisy).round(out=noisy).astype(np.int16), top  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue, reportArgumentType]


def _structural(role):
    def acquire(patient, machine, size, anatomy, texture, rng):
        t = _table(patient, machine)
        saturated = role == "t1_fs"
        if role == "t2":
            tr, te = rng.uniform(3500, 6000), rng.uniform(90, 120)
            signal, facts = (
                spin_echo(t["rho"], t["T1"], t["T2"], tr, te),
                {"ScanningSequence": "SE", "EchoTrainLength": 16},
            )
        elif machine["t1"] == "spin":
            tr, te = rng.uniform(500, 700), 10.0
            signal, facts = (
                spin_echo(t["rho"], t["T1"], t["T2"], tr, te),
                {"ScanningSequence": "SE", "EchoTrainLength": 3},
            )
        else:
            tr, te, flip = rng.uniform(4, 7), rng.uniform(1.2, 2.4), 12.0
            signal = spoiled_gradient_echo(t["rho"], t["T1"], t["T2s"], tr, te, flip)
            facts = {"ScanningSequence": "GR", "FlipAngle": flip}
        volume, _ = _image(signal, _receiver(t, saturated, machine, anatomy, rng), anatomy, texture)
        facts = {**facts, "RepetitionTime": round(tr, 1), "EchoTime": round(te, 2)}
        return volume[None], {**facts, "fat_saturated": saturated, "contrast_agent": False, "plane": "axial"}

    return acquire


def _diffusion(patient, machine, size, anatomy, texture, rng):
    t = _table(patient, machine)
    te = rng.uniform(60, 80)
    base = spin_echo(t["rho"], t["T1"], t["T2"], 5000.0, te)
    receiver = _receiver(t, True, machine, anatomy, rng)
    volumes, first_top = [], None
    for b in machine["b"]:
        volume, top = _image(base * diffusion_weighting(t["ADC"], float(b)), receiver, anatomy, texture, True)
        first_top = first_top or top
        volumes.append((volume * (top / first_top)).round().astype(np.int16))
    facts = {
        "ScanningSequence": "EP",
        "RepetitionTime": 5000.0,
        "EchoTime": round(te, 1),
        "DiffusionBValue": [float(b) for b in machine["b"]],
    }
    return np.stack(volumes), {**facts, "fat_saturated": True, "contrast_agent": False, "plane": "axial"}


def _contrast(patient, machine, size, anatomy, texture, rng):
    t = _table(patient, machine)
    tr, te, flip = rng.uniform(3, 4.5), rng.uniform(1.2, 1.7), 12.0
    gaps = rng.uniform(*machine["phase_s"], size["phases"] - 1) * size["phase_factor"]
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    arrival = rng.uniform(10, 20)
    concentration = extended_tofts(t["Ktrans"], t["ve"], t["vp"], np.maximum(times - arrival, 0))
    receiver = _receiver(t, True, machine, anatomy, rng)
    volumes, first_top = [], None
    for phase in range(size["phases"]):
        t1 = enhanced_t1(t["T1"], concentration[:, phase], machine["field"])  # pyright: ignore[reportIndexIssue]
        signal = spoiled_gradient_echo(t["rho"], t1, t["T2s"], tr, te, flip)
        volume, top = _image(signal, receiver, anatomy, texture)
        first_top = first_top or top
        volumes.append(np.clip(volume * (top / first_top), 0, 32000).round().astype(np.int16))
    facts = {
        "ScanningSequence": "GR",
        "RepetitionTime": round(tr, 2),
        "EchoTime": round(te, 2),
        "FlipAngle": flip,
    }
    facts["PhaseTime_s"] = [round(float(s), 1) for s in times]
    return np.stack(volumes), {**facts, "fat_saturated": True, "contrast_agent": True, "plane": "axial"}


_ACQUIRE = {
    "t1": _structural("t1"),
    "t1_fs": _structural("t1_fs"),
    "t2": _structural("t2"),
    "dwi": _diffusion,
    "contrast": _contrast,
}
