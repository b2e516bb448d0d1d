"""Building block for imaging plugins: reading NIfTI, resampling to a grid in patient mm with a mask, and augmentation."""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.batch import Motion, Observation
from mmvae.errors import InputError


def load_nifti(path: Path) -> tuple[Float[Tensor, "n i j k"], Float[Tensor, "4 4"]]:
    """Volumes (n = 1 for a 3-D file) as float32, and the matrix from voxel indices to patient LPS mm.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    from nibabel.filebasedimages import ImageFileError
    from nibabel.loadsave import load
    from nibabel.spatialimages import SpatialImage

    try:
        image = load(path)
        if not isinstance(image, SpatialImage):
            raise ImageFileError(f"a {type(image).__name__} holds no volume")
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (
        ImageFileError,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path.parent.name}/{path.name}: not a readable NIfTI volume ({type(error).__name__}); expected .nii or .nii.gz. "
            "Scan its source again."
        ) from error
    if array.ndim not in (3, 4):
        raise InputError(
            f"{path.parent.name}/{path.name}: {array.ndim} dimensions {array.shape}, expected 3 or 4"
        )
    if array.ndim == 3:
        array = array[..., None]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # NIfTI is RAS, patient coordinates here are LPS.
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0))), torch.tensor(
        affine, dtype=torch.float32
    )


def grid_affine(
    shape: Sequence[int], spacing_mm: Sequence[float], centre_mm: Sequence[float]
) -> Float[Tensor, "4 4"]:
    """The matrix from indices (i superior, j posterior, k left) of a grid about a centre to patient LPS mm."""
    affine = torch.zeros(4, 4)
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing_mm, 1.0
    affine[:3, 3] = torch.tensor(centre_mm) - affine[:3, :3] @ torch.tensor([(n - 1) / 2 for n in shape])
    return affine


def resample(
    volumes: Float[Tensor, "n i j k"],
    affine: Float[Tensor, "4 4"],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    centre_mm: Sequence[float],
) -> tuple[Float[Tensor, "n I J K"], Bool[Tensor, "I J K"]]:
    """The volumes on a grid about a centre, and the mask of that grid, False outside the source.

    Trilinear, by torchio/SimpleITK. Along axes in which the source is finer than the grid it is smoothed first (Gaussian of
    σ = 0.4 × grid step), so that thin slices are averaged and not skipped.

    Args:
        volumes: Any number of volumes on one grid.
        affine: Matrix from their voxel indices to patient LPS mm.
        shape: Shape of the target grid, axes superior, posterior, left.
        spacing_mm: Spacing of the target grid along the same axes.
        centre_mm: Centre of the target grid in patient LPS mm.
    """
    from torchio import ScalarImage
    from torchio.transforms import Resample

    target = grid_affine(shape, spacing_mm, centre_mm)
    step = affine[:3, :3].norm(dim=0)
    # Voxel axis a of the source lies mostly along patient axis argmax; the grid's step along it decides the smoothing.
    along = affine[:3, :3].abs().argmax(0)
    target_step = torch.tensor([spacing_mm[2 - int(axis)] for axis in along])
    source = volumes
    if (target_step > 1.5 * step).any():
        from scipy.ndimage import gaussian_filter

        sigma = [float(0.4 * t / s) if t > 1.5 * s else 0.0 for t, s in zip(target_step, step)]
        source = torch.from_numpy(
            np.stack([gaussian_filter(v.numpy(), sigma, mode="nearest") for v in volumes])
        )
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    image = ScalarImage(tensor=source, affine=(flip @ affine).numpy())
    ones = ScalarImage(tensor=torch.ones(1, *volumes.shape[1:]), affine=(flip @ affine).numpy())
    to_grid = Resample((tuple(shape), (flip @ target).numpy().astype(float)))
    inside = to_grid(ones).data[0] > 0.5
    return torch.where(inside, to_grid(image).data.float(), 0), inside


@lru_cache(4)  # the series of a case usually share one grid, and always one motion
def _origins(
    motion: Motion, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> Float[Tensor, "1 i j k 3"]:
    """Where each voxel of a moved grid came from, in the units of `grid_sample`."""
    # Each output voxel is looked up in the input, hence the inverse.
    inverse = torch.linalg.inv(motion.matrix())
    # Half extents in LPS order x y z.
    size = torch.tensor([(n * s) / 2 for n, s in zip(shape, spacing_mm)]).flip(0)
    theta = inverse[:3].clone()
    theta[:, :3] = theta[:, :3] * size[None, :] / size[:, None]
    theta[:, 3] = theta[:, 3] / size
    return nn.functional.affine_grid(theta[None], [1, 1, *shape], align_corners=False)


def move(observation: Observation, motion: Motion, spacing_mm: Sequence[float]) -> Observation:
    """A volume (C, i, j, k) under a motion about the grid's centre; voxels that come from outside are masked."""
    if motion == Motion():
        return observation
    grid = _origins(motion, tuple(observation.value.shape[1:]), tuple(spacing_mm))
    # Channels usually share one mask, which is then moved only once.
    measured = observation.mask[:1] if (observation.mask == observation.mask[:1]).all() else observation.mask
    stack = torch.cat([torch.where(observation.mask, observation.value, 0), measured.float()])[None]
    moved = nn.functional.grid_sample(stack, grid, align_corners=False)[0]
    value, cover = moved.split([len(observation.value), len(measured)])
    mask = (cover > 0.5).expand_as(value)
    return Observation(torch.where(mask, value / cover.clamp_min(0.5), 0), mask)


def vary_intensity(observation: Observation, generator: torch.Generator, strength: float) -> Observation:
    """Random gain, offset and noise of a scanner: each channel times exp(U) plus U' plus noise, U and U' uniform in ±strength.

    Args:
        observation: A volume (C, i, j, k).
        generator: Source of the random numbers.
        strength: Largest change; 0 for no change.
    """
    if strength == 0:
        return observation
    channels = (len(observation.value), 1, 1, 1)
    gain = torch.exp((torch.rand(channels, generator=generator) * 2 - 1) * strength)
    offset = (torch.rand(channels, generator=generator) * 2 - 1) * strength
    noise = torch.randn(observation.value.shape, generator=generator) * (strength / 2)
    return Observation(
        torch.where(observation.mask, observation.value * gain + offset + noise, 0), observation.mask
    )
