"""Building block for imaging plugins: greyscale pictures of volumes, on the model's grid and at native resolution."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmvae.blocks.geometry import load_nifti


def montage(volume: Float[Tensor, "i j k"], slices: int = 5) -> Image.Image:
    """A greyscale picture of equally spaced slices side by side, windowed to the volume's 1–99 % range."""
    array = volume.float().numpy()
    low, high = np.percentile(array, [1, 99])
    picks = np.linspace(0, len(array) - 1, min(slices, len(array)) + 2).round().astype(int)[1:-1]
    strip = np.concatenate([array[i] for i in picks], 1)
    return Image.fromarray((255 * np.clip((strip - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8))


def native_slice(
    path: Path, point_mm: Sequence[float] | None, pick: Callable[[Tensor], Tensor]
) -> Image.Image:
    """The slice through a point (or the middle slice) at native resolution, resized to square pixels."""
    volumes, affine = load_nifti(path)
    volume = pick(volumes)
    through = int(affine[:3, :3].norm(dim=0).argmax()) if len(set(volume.shape)) > 1 else 2
    index = volume.shape[through] // 2
    if point_mm is not None:
        voxel = torch.linalg.inv(affine) @ torch.tensor([*point_mm, 1.0])
        index = int(voxel[through].round().clamp(0, volume.shape[through] - 1))
    plane = volume.select(through, index)
    rest = [axis for axis in range(3) if axis != through]
    # Rows run along the axis that is nearer to superior or posterior, columns along the other; both toward + LPS, with S up.
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
        (round(image.width * columns / finest), round(image.height * rows / finest)),
        Image.Resampling.BILINEAR,
    )
