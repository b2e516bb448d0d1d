"""The radiograph modality: a single picture, scaled to fit into a square with its proportions kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from mmvae.batch import Motion, Observation
from mmvae.blocks.geometry import load_nifti, move, vary_intensity
from mmvae.blocks.networks import VolumeDecoder, VolumeEncoder
from mmvae.blocks.pictures import montage
from mmvae.case import View
from mmvae.errors import InputError
from mmvae.modality import Modality


@dataclass(frozen=True)
class Radiograph(Modality):
    """One greyscale picture; value and mask (1, 1, size, size), rows downward, with the padding masked.

    Single pictures seldom state their pixel size, so the grid is that of the picture rather than patient mm.

    Args:
        size: Pixels along each side.
        preset: Size of the networks: `cpu` (2 cores), `workstation`, `h100`.
        intensity_jitter: Largest random change of gain and offset in a training step; 0 is none.
    """

    size: int = 96
    preset: Literal["cpu", "workstation", "h100"] = "cpu"
    intensity_jitter: float = 0.1

    def claims(self, facts: Mapping) -> float:
        """A single picture: certain for computed or digital radiography and mammography, likely for any other."""
        if facts.get("type") != "image":
            return 0.0
        return 0.95 if facts.get("Modality") in ("CR", "DX", "MG") else 0.6

    def _picture(self, view: View) -> Float[Tensor, "rows columns"]:
        volumes, _ = load_nifti(view.path(view.assets[0]))
        if volumes.shape[0] != 1 or volumes.shape[3] != 1:
            raise InputError(
                f"a radiograph is one picture; found {volumes.shape[0]} volumes of {volumes.shape[3]} slices. "
                "Give the asset another kind"
            )
        return torch.nan_to_num(volumes[0, :, :, 0].T, 0.0, 0.0, 0.0)

    def read(self, view: View) -> Observation:
        picture = self._picture(view)
        low, middle, high = map(float, np.quantile(picture, [0.02, 0.5, 0.98]))
        scaled = ((picture - middle) / max((high - low) / 2, 1e-6)).clamp(-4, 4)
        share = self.size / max(picture.shape)
        rows, columns = (max(1, min(self.size, round(n * share))) for n in picture.shape)
        small = nn.functional.interpolate(
            scaled[None, None], size=(rows, columns), mode="bilinear", antialias=True, align_corners=False
        )[0, 0]
        observation = self.blank()
        top, left = (self.size - rows) // 2, (self.size - columns) // 2
        observation.value[0, 0, top : top + rows, left : left + columns] = small
        observation.mask[0, 0, top : top + rows, left : left + columns] = True
        return observation

    def blank(self) -> Observation:
        shape = (1, 1, self.size, self.size)
        return Observation(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))

    def augment(self, observation: Observation, motion: Motion, generator: torch.Generator) -> Observation:
        """The case's motion within the picture: rotation about the viewing direction, shift and scale; its side counts as 100 mm."""
        flat = Motion(
            (0.0, 0.0, motion.rotation_deg[2]),
            (motion.translation_mm[0], motion.translation_mm[1], 0.0),
            motion.scale,
            motion.flip,
        )
        step = 100.0 / self.size
        # The single slice is made as thick as the picture is wide, so that a change of scale cannot move it out of the grid.
        return vary_intensity(move(observation, flat, (100.0, step, step)), generator, self.intensity_jitter)

    def encoder(self, latent_dim: int) -> VolumeEncoder:
        return VolumeEncoder(1, (1, self.size, self.size), latent_dim, self.preset)

    def decoder(self, latent_dim: int) -> VolumeDecoder:
        return VolumeDecoder(1, (1, self.size, self.size), latent_dim, self.preset)

    def render(self, view: View) -> Image.Image:
        picture = self._picture(view).numpy()
        low, high = np.percentile(picture, [0.5, 99.5])
        grey = (255 * np.clip((picture - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
        return Image.fromarray(grey)

    def describe(self, observation: Observation) -> Image.Image:
        return montage(observation.value[0], 1)
