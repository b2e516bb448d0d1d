"""Contrast series: turns phases at irregular times into wash-in, peak and wash-out maps, and enhancement at fixed times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmvae.batch import Observation
from mmvae.errors import InputError
from mmvae_mri.grid import OnGrid, codes, is_mr_volume, tissue_of


def at_times(
    phases: Float[Tensor, "n i j k"], measured_s: Float[Tensor, " n"], target_s: Float[Tensor, " t"]
) -> tuple[Float[Tensor, "t i j k"], Bool[Tensor, " t"]]:
    """The series at the target times by linear interpolation, and which of those times it covers."""
    covered = (target_s >= measured_s[0] - 1e-3) & (target_s <= measured_s[-1] + 1e-3)
    if len(measured_s) == 1:
        return phases.expand(len(target_s), -1, -1, -1).clone(), covered
    right = torch.searchsorted(measured_s, target_s.contiguous()).clamp(1, len(measured_s) - 1)
    left = right - 1
    share = ((target_s - measured_s[left]) / (measured_s[right] - measured_s[left])).clamp(0, 1)[
        :, None, None, None
    ]
    return phases[left] * (1 - share) + phases[right] * share, covered


@dataclass(frozen=True)
class Contrast(OnGrid):
    """Channels: before contrast agent, wash-in, peak, wash-out, then enhancement at `times_s`.

    Enhancement is (S(t) − S(0)) over the tissue's median before contrast agent. Wash-in: steepest rise in the first
    `early_s` seconds, per 30 s; peak: largest enhancement; wash-out: last enhancement minus that at `early_s`.

    Args:
        times_s: Seconds after the first phase at which enhancement is a channel; masked if the series is shorter.
        early_s: End of wash-in, in seconds after the first phase.
        fat_saturated: None takes either.
        contrast_agent: None takes a series whether or not its header names the agent.
    """

    fat_saturated: bool | None = None
    contrast_agent: bool | None = None
    times_s: tuple[float, ...] = (40.0, 80.0, 160.0)
    early_s: float = 100.0

    @property
    def channels(self) -> int:
        return 4 + len(self.times_s)

    def claims(self, facts: Mapping) -> float:
        """Four or more gradient-echo phases of one geometry (DICOM.md)."""
        sequence = codes(facts, "ScanningSequence")
        if (
            not is_mr_volume(facts)
            or facts.get("DiffusionBValue")
            or "EP" in sequence
            or (sequence and "GR" not in sequence)
        ):
            return 0.0
        phases = len(facts.get("PhaseTime_s", ()))
        return 0.95 if phases >= 4 else 0.55 if phases >= 2 else 0.0

    def scale(self, volumes, facts):
        """The whole series over the tissue's median in its first phase."""
        tissue = tissue_of(volumes[0])
        return volumes / tissue.median().clamp_min(1e-6) if tissue.numel() else torch.zeros_like(volumes)

    def measure(self, volumes: Sequence[Observation], facts: Sequence[Mapping]) -> Observation:
        series, times = volumes[0], torch.tensor([float(t) for t in facts[0].get("PhaseTime_s", ())])
        if len(times) != len(series.value):
            raise InputError(
                f"a contrast series holds {len(series.value)} volumes and facts.PhaseTime_s lists {len(times)} times; expected "
                "one per volume. Correct the MAP's facts or the header."
            )
        order = times.argsort()
        times, phases = times[order] - times.min(), series.value[order]
        inside = series.mask[0]
        blank = self.blank()
        value, mask = blank.value, blank.mask
        value[0], mask[0] = 2 * (phases[0] - 1), inside
        if len(times) > 1:
            enhancement = phases - phases[0]
            gap_s = (times[1:] - times[:-1]).clamp_min(1.0)
            slope = 30 * (enhancement[1:] - enhancement[:-1]) / gap_s[:, None, None, None]
            early = times[:-1] < self.early_s
            value[1], mask[1] = slope[early].amax(0), inside
            value[2], mask[2] = enhancement.amax(0), inside
            at, reached = at_times(enhancement, times, torch.tensor([self.early_s]))
            value[3], mask[3] = enhancement[-1] - at[0], inside & reached[0]
            fixed, covered = at_times(enhancement, times, torch.tensor(self.times_s))
            value[4:], mask[4:] = fixed, inside & covered[:, None, None, None]
        value[1:] *= 2
        return Observation(value.clamp(-4, 8), mask)

    def shown(self, facts: Mapping, count: int) -> int:
        times = facts.get("PhaseTime_s", ())
        return min(range(count), key=lambda n: abs(times[n] - 60)) if len(times) == count else 0
