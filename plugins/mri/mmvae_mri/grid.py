"""The base class of all MRI modalities: a grid about the case's frame, selection by facts, networks and pictures."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmvae.batch import Motion, Observation
from mmvae.blocks.geometry import load_nifti, move, resample, vary_intensity
from mmvae.blocks.networks import VolumeDecoder, VolumeEncoder
from mmvae.blocks.pictures import montage, native_slice
from mmvae.case import Asset, View
from mmvae.errors import InputError
from mmvae.modality import Modality


def tissue_of(volume: Float[Tensor, "*voxels"]) -> Float[Tensor, " n"]:
    """A sample of the intensities that exceed a tenth of the 99.5th percentile: tissue, not air."""
    sample = volume.flatten()[:: max(1, volume.numel() // 200_000)]
    return sample[sample > 0.1 * float(np.quantile(sample, 0.995))]  # numpy partitions, torch would sort


def codes(facts: Mapping, name: str) -> set[str]:
    """The codes of a fact that may be one or several (ScanningSequence is 1-n)."""
    value = facts.get(name, ())
    return {value} if isinstance(value, str) else set(value)


def is_mr_volume(facts: Mapping) -> bool:
    """Whether an asset is an MRI volume; a missing Modality counts as MR, since the files of a table have none."""
    return facts.get("type") == "volume" and facts.get("Modality", "MR") == "MR"


@dataclass(frozen=True)
class OnGrid(Modality):
    """A stack of the case on a common grid; value and mask (C, i, j, k), axes superior, posterior, left.

    Args:
        shape: Voxels of the grid; (1, j, k) is a single slice, and a grid of few slices suits a 2-D stack.
        spacing_mm: Step of the grid along each axis.
        about: `lesion` centres the grid on the lesion's point and refuses a case without one; `whole` on the case's frame.
        plane: Take only stacks of this plane (axial, sagittal, coronal); None takes any.
        fat_saturated: Take only stacks with or without fat saturation; None takes either.
        contrast_agent: Take only stacks after or before contrast agent; None takes either.
        preset: Size of the networks: `cpu` (2 cores), `workstation`, `h100`.
        intensity_jitter: Largest random change of gain and offset in a training step; 0 is none.
    """

    shape: tuple[int, int, int] = (12, 40, 40)
    spacing_mm: tuple[float, float, float] = (7.0, 3.5, 3.5)
    about: Literal["lesion", "whole"] = "whole"
    plane: str | None = None
    fat_saturated: bool | None = False
    contrast_agent: bool | None = False
    preset: Literal["cpu", "workstation", "h100"] = "cpu"
    intensity_jitter: float = 0.1

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of channels C."""

    @abstractmethod
    def measure(self, volumes: Sequence[Observation], facts: Sequence[Mapping]) -> Observation:
        """Channels (C, i, j, k) from the selected stacks on the grid, each (n, i, j, k), and their facts."""

    def select(self, assets: Sequence[Asset]) -> Sequence[Asset]:
        criteria = {
            "plane": self.plane,
            "fat_saturated": self.fat_saturated,
            "contrast_agent": self.contrast_agent,
        }
        defaults = {"plane": self.plane, "fat_saturated": False, "contrast_agent": False}
        fits = [
            asset
            for asset in assets
            if all(
                value is None or asset.facts.get(name, defaults[name]) == value
                for name, value in criteria.items()
            )
        ]
        return Modality.select(self, fits)

    def read(self, view: View) -> Observation:
        centre = view.lesion.point_mm if self.about == "lesion" and view.lesion else view.frame_mm
        if self.about == "lesion" and view.lesion is None:
            raise InputError(
                "the case has no lesion point, and this model is centred on the lesion; give one in LPS mm, with the query or in "
                "the lesions table of a scan",
                "lesion",
            )
        if centre is None:
            raise InputError(
                "the case has no frame_mm; scan its source again, with `reference` in the MAP naming a kind it has"
            )
        stacks = []
        for asset in view.assets:
            volumes, affine = load_nifti(view.path(asset))
            if not torch.isfinite(volumes).all():
                volumes = torch.nan_to_num(volumes, 0.0, 0.0, 0.0)
            scaled = self.scale(volumes, asset.facts)
            value, mask = resample(scaled, affine, self.shape, self.spacing_mm, centre)
            stacks.append(Observation(value, mask[None].expand_as(value)))
        return self.measure(stacks, [asset.facts for asset in view.assets]).clean()

    def scale(self, volumes: Float[Tensor, "n i j k"], facts: Mapping) -> Float[Tensor, "n i j k"]:
        """The stack in scanner-independent units: (signal − median of the tissue) / half of the tissue's 10–90 % range.

        Tissue is what exceeds a tenth of the 99.5th percentile of the whole stack, since the crop alone may be all lesion.
        """
        tissue = tissue_of(volumes)
        if tissue.numel() < 2:
            return torch.zeros_like(volumes)
        low, middle, high = map(float, np.quantile(tissue, [0.1, 0.5, 0.9]))
        return ((volumes - middle) / max((high - low) / 2, 1e-6)).clamp(-4, 8)

    def blank(self) -> Observation:
        shape = (self.channels, *self.shape)
        return Observation(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))

    def augment(self, observation: Observation, motion: Motion, generator: torch.Generator) -> Observation:
        return vary_intensity(move(observation, motion, self.spacing_mm), generator, self.intensity_jitter)

    def encoder(self, latent_dim: int) -> VolumeEncoder:
        return VolumeEncoder(self.channels, self.shape, latent_dim, self.preset)

    def decoder(self, latent_dim: int) -> VolumeDecoder:
        return VolumeDecoder(self.channels, self.shape, latent_dim, self.preset)

    def render(self, view: View) -> Image.Image:
        point = view.lesion.point_mm if view.lesion else view.frame_mm
        asset = view.assets[0]
        return native_slice(
            view.path(asset), point, lambda volumes: volumes[self.shown(asset.facts, len(volumes))]
        )

    def shown(self, facts: Mapping, count: int) -> int:
        """Index of the volume that a reader looks at first."""
        return 0

    def describe(self, observation: Observation) -> Image.Image:
        rows = [montage(channel) for channel in observation.value]
        sheet = Image.new("L", (rows[0].width, sum(row.height for row in rows)))
        for number, row in enumerate(rows):
            sheet.paste(row, (0, number * row.height))
        return sheet
