"""Building block for imaging plugins: NIfTI → common grid in mm → mask → augmentation; small 2-D and 3-D networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from mmvae.batch import Motion, Observation
from mmvae.case import InputError
from mmvae.latent.gaussian import Gaussian


@dataclass(frozen=True)
class Preset:
    """How wide and deep the networks are: channels after each halving, and residual blocks at each level."""

    widths: tuple[int, ...]
    blocks: int


PRESETS = {
    "cpu": Preset((16, 32, 64), 0),
    "workstation": Preset((32, 64, 128, 256), 1),
    "h100": Preset((64, 128, 256, 512), 3),
}


def load_nifti(path: Path) -> tuple[Float[Tensor, "n i j k"], Float[Tensor, "4 4"]]:
    """Volumes (n = 1 for a 3-D file) as float32, and the matrix from voxel indices to patient LPS mm.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    import nibabel

    try:
        image = nibabel.load(path)
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (
        nibabel.filebasedimages.ImageFileError,
        OSError,
        EOFError,
        ValueError,
        __import__("zlib").error,
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
    """Indices (i superior, j posterior, k left) of a grid about a centre → patient LPS mm."""
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
    """The volumes on a grid of this shape and spacing (axes superior, posterior, left; mm) about a centre, and its mask.

    Trilinear by torchio/SimpleITK. Where the source is finer than the grid it is smoothed first (Gaussian of σ =
    0.4 × grid step), so that a thin slice is averaged and not skipped. The mask is False outside the source.
    """
    import torchio

    target = grid_affine(shape, spacing_mm, centre_mm)
    step = affine[:3, :3].norm(dim=0)
    # Voxel axis a of the source lies mostly along patient axis argmax; the grid's step along it decides the smoothing.
    along = affine[:3, :3].abs().argmax(0)
    wanted = torch.tensor([spacing_mm[2 - int(axis)] for axis in along])
    source = volumes
    if (wanted > 1.5 * step).any():
        from scipy.ndimage import gaussian_filter

        sigma = [float(0.4 * w / s) if w > 1.5 * s else 0.0 for w, s in zip(wanted, step)]
        source = torch.from_numpy(
            np.stack([gaussian_filter(v.numpy(), sigma, mode="nearest") for v in volumes])
        )
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
    image = torchio.ScalarImage(tensor=source, affine=(flip @ affine).numpy())
    ones = torchio.ScalarImage(tensor=torch.ones(1, *volumes.shape[1:]), affine=(flip @ affine).numpy())
    to = torchio.Resample((tuple(shape), (flip @ target).numpy().astype(float)))
    inside = to(ones).data[0] > 0.5
    return torch.where(inside, to(image).data.float(), 0), inside


@lru_cache(4)  # a case's series mostly share one grid, and always one motion
def _origins(
    motion: Motion, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> Float[Tensor, "1 i j k 3"]:
    """Where each voxel of a moved grid came from, in the units of `grid_sample`."""
    # Sampling pulls: each output voxel asks where it came from, hence the inverse.
    back = torch.linalg.inv(motion.matrix())
    # Half extents in LPS order x y z.
    size = torch.tensor([(n * s) / 2 for n, s in zip(shape, spacing_mm)]).flip(0)
    theta = back[:3].clone()
    theta[:, :3] = theta[:, :3] * size[None, :] / size[:, None]
    theta[:, 3] = theta[:, 3] / size
    return nn.functional.affine_grid(theta[None], [1, 1, *shape], align_corners=False)


def move(seen: Observation, motion: Motion, spacing_mm: Sequence[float]) -> Observation:
    """A volume (C, i, j, k) under a motion about the grid's centre; what comes from outside is masked."""
    if motion == Motion():
        return seen
    grid = _origins(motion, tuple(seen.value.shape[1:]), tuple(spacing_mm))
    # Channels mostly share one mask; it is then moved once.
    measured = seen.mask[:1] if (seen.mask == seen.mask[:1]).all() else seen.mask
    both = torch.cat([torch.where(seen.mask, seen.value, 0), measured.float()])[None]
    moved = nn.functional.grid_sample(both, grid, align_corners=False)[0]
    value, cover = moved.split([len(seen.value), len(measured)])
    mask = (cover > 0.5).expand_as(value)
    return Observation(torch.where(mask, value / cover.clamp_min(0.5), 0), mask)


def vary_intensity(seen: Observation, generator: torch.Generator, strength: float) -> Observation:
    """Each channel times exp(U) plus U' plus noise, U uniform within ±strength: scanners' gain, offset and noise."""
    if strength == 0:
        return seen
    channels = (len(seen.value), 1, 1, 1)
    gain = torch.exp((torch.rand(channels, generator=generator) * 2 - 1) * strength)
    offset = (torch.rand(channels, generator=generator) * 2 - 1) * strength
    noise = torch.randn(seen.value.shape, generator=generator) * (strength / 2)
    return Observation(torch.where(seen.mask, seen.value * gain + offset + noise, 0), seen.mask)


def _strides(shape: Sequence[int], levels: int) -> list[tuple[int, ...]]:
    """Stride of each halving: an axis is halved only while at least 4 long, so that few slices stay slices."""
    size, strides = list(shape), []
    for _ in range(levels):
        stride = tuple(2 if n >= max(4, max(size) / 2) else 1 for n in size)
        size = [-(-n // s) for n, s in zip(size, stride)]
        strides.append(stride)
    return strides


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv3d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


class VolumeEncoder(nn.Module):
    """(value, mask) each (B, C, i, j, k) → Gaussian (B, D): strided convolutions from the first layer on.

    No convolution is wide at full resolution; GroupNorm, since a case's expert may not depend on its batch-mates.
    """

    def __init__(self, channels: int, shape: Sequence[int], latent_dim: int, preset: str):
        super().__init__()
        widths, blocks = PRESETS[preset].widths, PRESETS[preset].blocks
        layers, before, size = [], 2 * channels, list(shape)
        for width, stride in zip(widths, _strides(shape, len(widths))):
            layers += [nn.Conv3d(before, width, 3, stride, 1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [_Residual(width) for _ in range(blocks)]
            size = [-(-n // s) for n, s in zip(size, stride)]
            before = width
        pooled = tuple(min(n, 4) for n in size)
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(pooled), nn.Flatten())
        hidden = 4 * widths[-1]
        self.head = nn.Sequential(
            nn.Linear(before * prod(pooled), hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * latent_dim),
        )

    def forward(self, value: Float[Tensor, "B C i j k"], mask: Bool[Tensor, "B C i j k"]) -> Gaussian:
        mean, logvar = self.head(self.body(torch.cat([value, mask.to(value.dtype)], 1))).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


class VolumeDecoder(nn.Module):
    """z (B, D) → a Laplace for every voxel (C, i, j, k), with one learned scale a channel.

    From a coarse grid by upsampling and convolutions; the last, C wide, is at half resolution, and its mean is interpolated.
    """

    def __init__(self, channels: int, shape: Sequence[int], latent_dim: int, preset: str):
        super().__init__()
        widths, blocks = PRESETS[preset].widths[::-1], PRESETS[preset].blocks
        sizes = [tuple(shape)]
        for stride in _strides(shape, len(widths)):
            sizes.append(tuple(-(-n // s) for n, s in zip(sizes[-1], stride)))
        sizes = sizes[::-1]
        self.start = (widths[0], *sizes[0])
        self.head = nn.Linear(latent_dim, prod(self.start))
        layers: list[nn.Module] = []
        for level, size in enumerate(sizes[1:]):
            after = widths[min(level + 1, len(widths) - 1)]
            last = level == len(widths) - 1
            layers += [
                nn.GroupNorm(8, widths[level]),
                nn.SiLU(),
                nn.Conv3d(widths[level], channels if last else after, 3, padding=1),
            ]
            if not last:
                layers += [_Residual(after) for _ in range(blocks)]
            layers.append(nn.Upsample(size=size, mode="trilinear" if last else "nearest"))
        self.body = nn.Sequential(*layers)
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1, 1))

    def forward(self, z: Float[Tensor, "B D"]):
        from pyro.distributions import Laplace

        mean = self.body(self.head(z).unflatten(1, self.start))
        return Laplace(mean, self.log_scale.clamp(-6, 6).exp().expand_as(mean), validate_args=False)


def montage(volume: Float[Tensor, "i j k"], slices: int = 5) -> Image.Image:
    """A grey picture of equally spaced slices side by side, windowed to its 1–99 % range."""
    array = volume.float().numpy()
    low, high = np.percentile(array, [1, 99])
    picks = np.linspace(0, len(array) - 1, min(slices, len(array)) + 2).round().astype(int)[1:-1]
    strip = np.concatenate([array[i] for i in picks], 1)
    return Image.fromarray((255 * np.clip((strip - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8))


def native_slice(
    path: Path, point_mm: Sequence[float] | None, pick: Callable[[Tensor], Tensor]
) -> Image.Image:
    """The native slice through a point (the middle one without) at native resolution, pixels made square."""
    volumes, affine = load_nifti(path)
    volume = pick(volumes)
    through = int(affine[:3, :3].norm(dim=0).argmax()) if len(set(volume.shape)) > 1 else 2
    index = volume.shape[through] // 2
    if point_mm is not None:
        voxel = torch.linalg.inv(affine) @ torch.tensor([*point_mm, 1.0])
        index = int(voxel[through].round().clamp(0, volume.shape[through] - 1))
    plane = volume.select(through, index)
    rest = [axis for axis in range(3) if axis != through]
    # Rows run along the axis that is nearer to superior or posterior, columns along the other; both toward + LPS, S up.
    directions = [affine[:3, axis] for axis in rest]
    order = 1 if directions[0][0].abs() > directions[1][0].abs() else 0
    if order:
        plane, directions = plane.T, directions[::-1]
    if directions[0][1] + directions[0][0] - directions[0][2] < 0:
        plane = plane.flip(0)
    if directions[1][0] + directions[1][1] < 0:
        plane = plane.flip(1)
    array = plane.numpy()
    low, high = np.percentile(array, [0.5, 99.5])
    image = Image.fromarray((255 * np.clip((array - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8))
    rows, columns = (float(d.norm()) for d in directions)
    finest = min(rows, columns)
    return image.resize(
        (round(image.width * columns / finest), round(image.height * rows / finest)), Image.BILINEAR
    )
