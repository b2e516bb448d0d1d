"""One study's headers → the files of its case, in a process of its own; imports nothing heavy."""

import hashlib
import pickle
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmvae.case import Asset
from mmvae.identity.vault import (
    pseudonym,
    shifted_dates,
    spellings,
    without_identifiers,
    without_naming_lines,
)
from mmvae.ingest.dicom import Frame, Header
from mmvae.ingest.inspect import SourceFile
from mmvae.ingest.nifti import write_nifti
from mmvae.ingest.pixels import read_frames
from mmvae.ingest.skipped import Skipped, Unusable
from mmvae.ingest.stacks import Stack, stacks_of


@dataclass(frozen=True)
class Task:
    """All that a worker needs to write one study."""

    spool: Path
    root: Path
    case_id: str
    files: Mapping[int, SourceFile]
    shift_days: int
    reports: tuple[tuple[Path, str], ...]
    key: bytes


@dataclass(frozen=True)
class Written:
    """What came of a study; `identifiers` are what its headers hold, for cleaning words that stand elsewhere."""

    assets: tuple[Asset, ...]
    centres: Mapping[str, tuple[float, float, float]]
    record: Mapping[str, float | str]
    points: tuple[tuple[float, float, float], ...]
    skipped: tuple[Skipped, ...]
    series: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    identifiers: tuple[str, ...] = ()


def _load_headers(spool: Path) -> list[Header]:
    headers = []
    with spool.open("rb") as stream:
        while True:
            try:
                headers += pickle.load(stream)
            except EOFError:
                return headers


def _without_duplicates(headers: list[Header], task: Task) -> tuple[list[Header], list[Skipped]]:
    """Of files with one SOPInstanceUID the first by F is kept."""
    first: dict[str, Header] = {}
    kept, skipped = [], []
    for header in sorted(headers, key=lambda h: task.files[h.file].name):
        if not header.frames or not header.instance:
            kept.append(header)
            continue
        other = first.setdefault(header.instance, header)
        if other is header:
            kept.append(header)
        else:
            a, b = (hashlib.sha256(_bytes(h, task)).digest() for h in (other, header))
            same = "the same pixels" if a == b else "other pixels; the first by F is kept"
            skipped.append(
                Skipped(
                    task.files[header.file].name,
                    "duplicate",
                    f"its SOPInstanceUID stands in another file, with {same}",
                )
            )
    return sorted(kept, key=lambda h: h.file), skipped


def _bytes(header: Header, task: Task) -> bytes:
    try:
        planes = read_frames(task.files[header.file].path, list(header.frames))
    except Unusable:
        return b""
    return b"".join(np.ascontiguousarray(planes[n]).tobytes() for n in sorted(planes))


def volume_of(stack: Stack, paths: Mapping[int, Path]) -> NDArray:
    """The stack's voxels (x, y, z[, n]): stored integers where no scaling is asked for, else float32 after slope and intercept.

    A missing slice is the mean of its neighbours by distance.
    """
    by_file: dict[int, list[Frame]] = defaultdict(list)
    for volume in stack.volumes:
        for frame in volume:
            if frame is not None:
                by_file[frame.file].append(frame)
    planes: dict[int, NDArray] = {}
    for file, frames in by_file.items():
        for place, plane in read_frames(paths[file], frames).items():
            planes[id(frames[place])] = plane
    every = [f for frames in by_file.values() for f in frames]
    plain = all(f.slope == 1.0 and f.intercept == 0.0 for f in every) and all(
        p.dtype == np.int16 for p in planes.values()
    )
    columns, rows, slices = stack.shape
    made = np.zeros((len(stack.volumes), slices, rows, columns), np.int16 if plain else np.float32)
    for v, volume in enumerate(stack.volumes):
        for k, frame in enumerate(volume):
            if frame is not None:
                plane = planes[id(frame)]
                made[v, k] = (
                    plane
                    if plain
                    else plane.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
                )
        here = np.array([k for k, frame in enumerate(volume) if frame is not None])
        for k in sorted(set(range(slices)) - set(here.tolist())):
            below, above = here[here < k].max(initial=-1), here[here > k].min(initial=slices)
            below, above = (
                (above, above) if below < 0 else (below, below) if above >= slices else (below, above)
            )
            share = 0.0 if above == below else (k - below) / (above - below)
            made[v, k] = (
                np.round((1 - share) * made[v, below] + share * made[v, above])
                if plain
                else (1 - share) * made[v, below] + share * made[v, above]
            )
    array = made.transpose(3, 2, 1, 0)
    return array[..., 0] if array.shape[3] == 1 else array


def _files_of(frames: Sequence[Frame], task: Task) -> tuple[str, ...]:
    """F of each file, with the frames (counted from 1) where only some of its frames are meant."""
    by_file: dict[int, set[int]] = defaultdict(set)
    count = {}
    for frame in frames:
        by_file[frame.file].add(frame.number)
        count[frame.file] = frame.pixels.frames
    names = []
    for file, numbers in by_file.items():
        name = task.files[file].name
        if len(numbers) == count[file]:
            names.append(name)
        else:
            names += [
                f"{name}#{a + 1}-{b + 1}" if b > a else f"{name}#{a + 1}" for a, b in _runs(sorted(numbers))
            ]
    return tuple(sorted(names))


def files_field(names: Sequence[str]) -> tuple[str, ...] | dict:
    """An asset's `files`: the names, or above 64 how many and the hash of the sorted list."""
    if len(names) <= 64:
        return tuple(names)
    return {"n": len(names), "sha256": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()}


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs


def write_study(task: Task) -> Written:
    """The study's stacks as NIfTI and its words as text, in the case's folder."""
    every = _load_headers(task.spool)
    held = {name for h in every for name in (*h.identifiers, h.patient, h.accession, h.study)}
    identifiers = tuple(sorted({spelt for name in held for spelt in spellings(name)}))
    headers, skipped = _without_duplicates(every, task)
    folder = task.root / "cases" / task.case_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stacks, left = stacks_of((header.series, frame) for header in headers for frame in header.frames)
    by_reason: dict[tuple[str, str], list[Frame]] = defaultdict(list)
    for one in left:
        by_reason[(one.code, one.reason)].append(one.frame)
    assets: list[Asset] = []
    behind: dict[str, str] = {}
    many: dict[str, tuple[str, ...]] = {}
    centres: dict[str, tuple[float, float, float]] = {}
    paths = {number: one.path for number, one in task.files.items()}
    for stack in sorted(stacks, key=lambda s: min(f.file for v in s.volumes for f in v if f is not None)):
        frames = [f for volume in stack.volumes for f in volume if f is not None]
        try:
            array = volume_of(stack, paths)
        except Unusable as error:
            by_reason[(error.code, error.reason)] += frames
            continue
        uri = f"cases/{task.case_id}/{len(assets)}.nii.gz"
        digest = write_nifti(task.root / uri, array, stack.affine)
        series = pseudonym(task.key, "series", "s", "+".join(stack.series))
        behind[series] = "+".join(stack.series)
        facts = {**stack.facts, "voxels": int(array.size), "series": series}
        middle = stack.affine @ np.array([*((np.array(array.shape[:3]) - 1) / 2), 1.0])
        names = _files_of(frames, task)
        kept = files_field(names)
        if isinstance(kept, dict):
            many[kept["sha256"]] = names
        centres[uri] = tuple(round(float(c), 3) for c in middle[:3])
        assets.append(Asset("volume", uri, digest, facts=facts, files=kept))
    for (code, reason), frames in by_reason.items():
        skipped += [Skipped(name, code, reason) for name in _files_of(frames, task)]
    texts = [(h.text, (task.files[h.file].name,)) for h in headers if h.text]
    texts += [(path.read_text(encoding="utf-8", errors="replace"), (name,)) for path, name in task.reports]
    for text, files in texts:
        clean = without_identifiers(without_naming_lines(text), identifiers)
        clean = shifted_dates(clean, task.shift_days).strip() + "\n"
        uri = f"cases/{task.case_id}/{len(assets)}.txt"
        (task.root / uri).write_text(clean, encoding="utf-8")
        assets.append(Asset("text", uri, hashlib.sha256(clean.encode()).hexdigest(), files=files))
    record: dict[str, float | str] = {}
    for header in headers:
        record = {**header.record, **record}
    points = tuple(p for h in headers for p in h.points)
    used = "the points that it marks became the case's lesions; it holds no image"
    skipped += [Skipped(task.files[h.file].name, "not_image", used) for h in headers if h.points]
    return Written(tuple(assets), centres, record, points, tuple(skipped), behind, many, identifiers)
