"""Diffusion: turns any number of b-values into the trace image at the highest b-value and an ADC map with its own mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmvae.batch import Observation
from mmvae.case import Asset
from mmvae.errors import InputError
from mmvae.modality import Modality
from mmvae_mri.grid import OnGrid, codes, is_mr_volume, tissue_of

WATER = 3.0e-3  # mm²/s; nothing in the body diffuses faster than free water at 37 °C


def apparent_diffusion(
    signal: Float[Tensor, "b i j k"], b_values: Float[Tensor, " b"]
) -> Float[Tensor, "i j k"]:
    r"""Apparent diffusion coefficient in mm²/s, by least squares over the b-values.

    Solves :math:`\log S_b = \log S_0 - b D` for D (Stejskal & Tanner 1965, doi:10.1063/1.1695690).

    Args:
        signal: Trace-weighted magnitude, one volume for each b-value, in any unit.
        b_values: Diffusion weighting in s/mm², at least two distinct.
    """
    if b_values.unique().numel() < 2:
        raise ValueError(
            f"b_values {b_values.tolist()} s/mm² hold one distinct value; a slope needs two. "
            "Did the series lose its b=0 volume?"
        )
    # Background air is 0 and log 0 is -inf: one such voxel would turn the whole fit into NaN.
    log_signal = signal.clamp_min(torch.finfo(signal.dtype).tiny).log()
    b = b_values - b_values.mean()
    return -torch.einsum("b,bijk->ijk", b, log_signal) / b.square().sum()


@dataclass(frozen=True)
class DWI(OnGrid):
    """Channel 0: trace at the highest b ≥ `high_b`; channel 1: (ADC − 1.5) / 0.75 in 1e-3 mm²/s, measured where there is signal.

    Args:
        high_b: Smallest b-value in s/mm² that counts as diffusion-weighted.
        fat_saturated: None takes either; diffusion imaging normally suppresses fat.
    """

    fat_saturated: bool | None = None
    high_b: float = 500.0

    @property
    def channels(self) -> int:
        return 2

    def claims(self, facts: Mapping) -> float:
        """By ADC token or b-values first, then by echo-planar readout (DICOM.md)."""
        if not is_mr_volume(facts):
            return 0.0
        tokens, description = set(facts.get("ImageType", ())), set(facts.get("described_as", ()))
        if "ADC" in tokens:
            return 0.9
        if tokens & {"FA", "DIFFUSION_ANISO"}:
            return 0.0
        if facts.get("DiffusionBValue"):
            return 0.97
        if "EP" not in codes(facts, "ScanningSequence"):
            return 0.0
        # Echo-planar without a b-value: diffusion only if the header says so; functional imaging looks the same.
        return 0.8 if "DIFFUSION" in tokens or "diffusion" in description else 0.3

    def select(self, assets: Sequence[Asset]) -> Sequence[Asset]:
        """The stack and the ADC map with the most certain claims."""
        maps = [a for a in assets if "ADC" in a.facts.get("ImageType", ())]
        stacks = [a for a in assets if a not in maps]
        return [*OnGrid.select(self, stacks), *Modality.select(self, maps)]

    def scale(self, volumes, facts):
        """ADC maps keep their unit (µm²/s or mm²/s become 1e-3 mm²/s); traces are divided by the tissue's median."""
        if "ADC" in facts.get("ImageType", ()):
            top = float(torch.quantile(volumes.flatten()[:: max(1, volumes.numel() // 200_000)], 0.99))
            return volumes / 1000 if top > 20 else volumes * 1000 if top < 0.02 else volumes
        tissue = tissue_of(volumes[0])
        return volumes / tissue.median().clamp_min(1e-6) if tissue.numel() else torch.zeros_like(volumes)

    def measure(self, volumes: Sequence[Observation], facts: Sequence[Mapping]) -> Observation:
        blank = self.blank()
        value, mask = blank.value, blank.mask
        for stack, known in zip(volumes, facts):
            if "ADC" in known.get("ImageType", ()):
                if not mask[1].any():
                    value[1], mask[1] = _standard(stack.value[0]), stack.mask[0] & (stack.value[0] > 0)
                continue
            b = torch.tensor([float(x) for x in known.get("DiffusionBValue", ())])
            if len(b) != len(stack.value):
                raise InputError(
                    f"a diffusion stack holds {len(stack.value)} volumes and facts.DiffusionBValue lists {len(b)} b-values "
                    f"{b.tolist()}; expected one per volume. Correct the MAP's facts or the header."
                )
            # Directions of one b-value are averaged; their geometric mean is the trace.
            levels = b.unique()
            log = stack.value.clamp_min(1e-6).log()
            trace = torch.stack([log[b == level].mean(0) for level in levels]).exp()
            if levels[-1] >= self.high_b:
                value[0], mask[0] = (4 * trace[-1] - 1).clamp(-4, 8), stack.mask[0]
            if len(levels) > 1:
                diffusion = 1000 * apparent_diffusion(trace, levels)
                # Below the noise floor the slope is noise.
                value[1], mask[1] = _standard(diffusion), stack.mask[0] & (trace[0] > 0.15)
        return Observation(value, mask)

    def shown(self, facts: Mapping, count: int) -> int:
        b = facts.get("DiffusionBValue", ())
        return max(range(len(b)), key=lambda n: b[n]) if len(b) == count else 0


def _standard(diffusion: Tensor) -> Tensor:
    return ((diffusion.clamp(0, 1000 * WATER * 1.5) - 1.5) / 0.75).clamp(-4, 8)
