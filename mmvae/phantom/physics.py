"""MR signal equations and contrast kinetics: arrays in, arrays out, no anatomy."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating] | np.floating | float
RELAXIVITY = {1.5: 4.78, 3.0: 4.97}  # gadobutrol r1 in L/mmol/s (PHANTOM.md)


def spin_echo(rho: Array, t1_ms: Array, t2_ms: Array, tr_ms: float, te_ms: float) -> Array:
    """Spin-echo signal in arbitrary units: ρ (1 − e^{−TR/T1}) e^{−TE/T2}.

    Args:
        rho: Proton density ρ.
        t1_ms: T1.
        t2_ms: T2.
        tr_ms: Repetition time TR.
        te_ms: Echo time TE.
    """
    return rho * (1 - np.exp(-tr_ms / t1_ms)) * np.exp(-te_ms / t2_ms)


def spoiled_gradient_echo(
    rho: Array, t1_ms: Array, t2s_ms: Array, tr_ms: float, te_ms: float, flip_deg: float
) -> Array:
    """Spoiled gradient-echo signal: ρ sin α (1 − E1) / (1 − cos α E1) · e^{−TE/T2*}, E1 = e^{−TR/T1} (Ernst & Anderson 1966).

    Args:
        rho: Proton density ρ.
        t1_ms: T1.
        t2s_ms: T2*.
        tr_ms: Repetition time TR.
        te_ms: Echo time TE.
        flip_deg: Flip angle α.
    """
    e1, alpha = np.exp(-tr_ms / t1_ms), np.radians(flip_deg)
    return rho * np.sin(alpha) * (1 - e1) / (1 - np.cos(alpha) * e1) * np.exp(-te_ms / t2s_ms)


def diffusion_weighting(adc: Array, b: float) -> Array:
    """e^{−bD}; ADC in 1e-3 mm²/s, b in s/mm²."""
    return np.exp(-b * adc * 1e-3)


def parker_plasma(t_min: Array) -> Array:
    """Plasma concentration in mmol/L t minutes after the bolus arrives (Parker 2006, doi:10.1002/mrm.21066, eq. 1; haematocrit 0.42)."""
    a, centre, sigma = (0.809, 0.330), (0.17046, 0.365), (0.0563, 0.132)
    gauss = sum(
        a_n / (s * np.sqrt(2 * np.pi)) * np.exp(-((t_min - c) ** 2) / (2 * s**2))
        for a_n, c, s in zip(a, centre, sigma)
    )
    blood = gauss + 1.050 * np.exp(-0.1685 * t_min) / (1 + np.exp(-38.078 * (t_min - 0.483)))
    return np.where(t_min > 0, blood, 0) / (1 - 0.42)


def extended_tofts(ktrans: Array, ve: Array, vp: Array, times_s: Array) -> Array:
    """Tissue concentration (…, T) in mmol/L at times after the bolus arrives (Tofts 1999, eq. 8).

    C(t) = vp Cp(t) + Ktrans ∫ Cp(τ) e^{−Ktrans (t − τ)/ve} dτ, Ktrans per minute, on a one-second grid.

    Args:
        ktrans: Transfer constant per minute.
        ve: Volume fraction of the extravascular extracellular space.
        vp: Volume fraction of plasma.
        times_s: T times after the bolus arrives, shared by all.
    """
    grid = np.arange(0, max(float(np.max(times_s)), 1.0) + 1.0, 1.0) / 60
    plasma = parker_plasma(grid)
    ktrans, ve, vp = (np.asarray(x, float)[..., None] for x in (ktrans, ve, vp))
    decay = np.exp(-ktrans / ve * grid)  # (…, T)
    n = 2 * len(grid)
    convolved = np.fft.irfft(np.fft.rfft(decay, n) * np.fft.rfft(plasma, n), n)[..., : len(grid)] * (1 / 60)
    whole = vp * plasma + ktrans * convolved
    index = np.clip(np.asarray(times_s) / 60, 0, None) / (1 / 60)
    low = np.minimum(index.astype(int), len(grid) - 2)
    share = index - low
    return np.where(np.asarray(times_s) > 0, whole[..., low] * (1 - share) + whole[..., low + 1] * share, 0.0)


def enhanced_t1(t1_ms: Array, concentration: Array, field: float) -> Array:
    """T1 in ms with contrast agent: 1/T1 = 1/T1₀ + r1 C."""
    return 1000 / (1000 / t1_ms + RELAXIVITY[field] * concentration)


def rician(signal: Array, in_phase: Array, quadrature: Array) -> Array:
    """Magnitude of the signal with Gaussian noise in both channels (Gudbjartsson & Patz 1995)."""
    squared = np.square(signal + in_phase)
    squared += np.square(quadrature)
    return np.sqrt(squared, out=squared)
