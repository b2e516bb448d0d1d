"""Building block for imaging plugins: small networks for volumes and pictures, in three sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Laplace

from mmvae.latent.gaussian import Gaussian


@dataclass(frozen=True)
class Preset:
    """Width and depth of the networks: channels after each halving, and residual blocks at each level."""

    widths: tuple[int, ...]
    blocks: int


PRESETS = {
    "cpu": Preset((16, 32, 64), 0),
    "workstation": Preset((32, 64, 128, 256), 1),
    "h100": Preset((64, 128, 256, 512), 3),
}


def _strides(shape: Sequence[int], levels: int) -> list[tuple[int, int, int]]:
    """Strides of each halving: an axis is halved only while it has at least 4 voxels and half of the longest axis's."""
    size, strides = list(shape), []
    for _ in range(levels):
        i, j, k = (2 if n >= max(4, max(size) / 2) else 1 for n in size)
        stride = (i, j, k)
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
    """(value, mask) each (B, C, i, j, k) → Gaussian (B, D), by strided convolutions.

    The first layer is strided, so that no convolution runs at full resolution. It uses GroupNorm, since a case's expert may
    not depend on the other cases of its batch.

    Args:
        channels: Number of channels, C.
        shape: Voxels of the grid (i, j, k).
        latent_dim: D.
        preset: A key of `PRESETS`.
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
    """z (B, D) → a Laplace distribution for every voxel (C, i, j, k), with one learned scale per channel.

    A coarse grid is upsampled and convolved; the last convolution runs at half resolution, and its output is interpolated.

    Args:
        channels: Number of channels, C.
        shape: Voxels of the grid (i, j, k).
        latent_dim: D.
        preset: A key of `PRESETS`.
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

    def forward(self, z: Float[Tensor, "B D"]) -> Laplace:
        mean = self.body(self.head(z).unflatten(1, self.start))
        return Laplace(mean, self.log_scale.clamp(-6, 6).exp().expand_as(mean), validate_args=False)
