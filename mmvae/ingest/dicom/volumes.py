"""Reads the voxels of a stack from the files of its frames."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmvae.ingest.dicom.frame import Frame
from mmvae.ingest.dicom.pixels import read_frames
from mmvae.ingest.dicom.stacks import Stack


def volume_of(stack: Stack, paths: Mapping[int, Path]) -> NDArray:
    """The stack's voxels (x, y, z[, n]): stored integers if no frame has a slope, else float32 after slope and intercept.

    A missing slice is the mean of its neighbours, weighted by distance.

    Args:
        stack: The stack.
        paths: Path of each file, by its number.

    Raises:
        Unusable: if a frame's samples cannot be decoded.
    """
    frames = stack.frames
    planes = _planes(frames, paths)
    unscaled = all(f.slope == 1.0 and f.intercept == 0.0 for f in frames) and all(
        plane.dtype == np.int16 for plane in planes.values()
    )
    columns, rows, slices = stack.shape
    voxels = np.zeros((len(stack.volumes), slices, rows, columns), np.int16 if unscaled else np.float32)
    for v, volume in enumerate(stack.volumes):
        for k, frame in enumerate(volume):
            if frame is not None:
                plane = planes[id(frame)]
                if not unscaled:
                    plane = plane.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
                voxels[v, k] = plane
        _fill_missing(voxels[v], [k for k, frame in enumerate(volume) if frame is not None])
    array = voxels.transpose(3, 2, 1, 0)
    return array[..., 0] if array.shape[3] == 1 else array


def _planes(frames: Sequence[Frame], paths: Mapping[int, Path]) -> dict[int, NDArray]:
    """The samples of each frame, by `id` of the frame; each file is read once."""
    by_file: dict[int, list[Frame]] = defaultdict(list)
    for frame in frames:
        by_file[frame.file].append(frame)
    return {
        id(frame): plane
        for file, members in by_file.items()
        for frame, plane in zip(members, read_frames(paths[file], members))
    }


def _fill_missing(volume: NDArray, measured: Sequence[int]) -> None:
    """Fills, in place, the slices of a volume (z, y, x) that are not among the measured ones."""
    present, slices = np.array(measured), len(volume)
    for k in sorted(set(range(slices)) - set(measured)):
        below, above = (
            int(present[present < k].max(initial=-1)),
            int(present[present > k].min(initial=slices)),
        )
        if below < 0:
            below = above
        elif above >= slices:
            above = below
        share = 0.0 if above == below else (k - below) / (above - below)
        mean = (1 - share) * volume[below] + share * volume[above]
        volume[k] = np.round(mean) if volume.dtype == np.int16 else mean
