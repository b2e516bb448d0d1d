"""The field `files` of an asset: F of each source file, and which of its frames were used."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mmvae.ingest.dicom.frame import Frame
from mmvae.ingest.source import SourceFile

MOST_NAMES = 64


def names_of(frames: Sequence[Frame], files: Mapping[int, SourceFile]) -> tuple[str, ...]:
    """F of each file, followed by its frames (counted from 1) if only some of them were used: `F#3-17`."""
    by_file: dict[int, set[int]] = defaultdict(set)
    count: dict[int, int] = {}
    for frame in frames:
        by_file[frame.file].add(frame.number)
        count[frame.file] = frame.pixels.frames
    names = []
    for file, numbers in by_file.items():
        name = files[file].name
        if len(numbers) == count[file]:
            names.append(name)
        else:
            runs = _runs(sorted(numbers))
            names += [f"{name}#{a + 1}-{b + 1}" if b > a else f"{name}#{a + 1}" for a, b in runs]
    return tuple(sorted(names))


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs


def files_field(names: Sequence[str]) -> tuple[str, ...] | dict[str, Any]:
    """An asset's `files`: the names or, for more than 64, their number and the hash of the sorted list."""
    if len(names) <= MOST_NAMES:
        return tuple(names)
    return {"n": len(names), "sha256": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()}
