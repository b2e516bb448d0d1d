"""Frames of one study → stacks: one geometry, slices in order, b-values and phases side by side."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmvae.ingest.dicom import Frame

SAME_PLACE_MM = 0.02
MOST_MISSING = 0.2


@dataclass(frozen=True)
class Stack:
    """Volumes of one geometry: `volumes[v][k]` is the frame of volume v and slice k, None where it is missing.

    Args:
        series: SeriesInstanceUIDs that it was made of, in order.
        origin, steps: Patient LPS mm of the first voxel's centre, and the steps along column, row and slice (columns of a 3 × 3).
        missing: Slices that no frame covers, over all volumes, to be filled by their neighbours.
    """

    series: tuple[str, ...]
    volumes: tuple[tuple[Frame | None, ...], ...]
    origin: tuple[float, float, float]
    steps: NDArray[np.float64]
    facts: Mapping
    missing: int = 0

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel (column, row, slice) → patient LPS mm."""
        made = np.eye(4)
        made[:3, :3], made[:3, 3] = self.steps, self.origin
        return made

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        first = next(f for volume in self.volumes for f in volume if f is not None)
        rows, columns = (first.tile[2:]) if first.tile else (first.pixels.rows, first.pixels.columns)
        return columns, rows, len(self.volumes[0])


@dataclass(frozen=True)
class Left:
    """A frame that no stack uses, and why."""

    frame: Frame
    code: str
    reason: str


def _kind_of(frame: Frame) -> tuple:
    """What must be equal within a stack beside geometry: derived maps, parts of a Dixon and echoes are stacks of their own."""
    facts = frame.facts
    tokens = set(facts.get("ImageType", ())) - {
        "ND",
        "NORM",
        "DIS2D",
        "DIS3D",
        "PRIMARY",
        "SECONDARY",
        "ORIGINAL",
        "DERIVED",
        "NONE",
        "OTHER",
        "MIXED",
    }
    return tuple(sorted(tokens)), facts.get("EchoTime"), facts.get("InversionTime"), facts.get("FlipAngle")


def _geometry(frame: Frame) -> tuple:
    size = frame.tile[2:] if frame.tile else (frame.pixels.rows, frame.pixels.columns)
    return (*size, *(round(v, 3) + 0.0 for v in frame.orientation), *(round(v, 4) for v in frame.spacing))


def _normal(frame: Frame) -> NDArray:
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def stacks_of(frames: Iterable[tuple[str, Frame]]) -> tuple[list[Stack], list[Left]]:
    """All stacks of a study's frames, each given with its SeriesInstanceUID, and the frames that none could use."""
    groups: dict[tuple, list[Frame]] = defaultdict(list)
    for series, frame in frames:
        groups[(series, _geometry(frame), _kind_of(frame))].append(frame)
    made, left = [], []
    for (series, _, _), members in groups.items():
        stacks, losses = _assemble(series, members)
        made += stacks
        left += losses
    return _merged(made), left


def _positions(frames: Sequence[Frame]) -> tuple[NDArray, NDArray]:
    """Place of each frame along the normal in mm, and the sorted different places."""
    normal = _normal(frames[0])
    along = np.array([np.dot(normal, f.position) for f in frames])
    order = np.sort(along)
    places = [order[0]]
    for value in order[1:]:
        if value - places[-1] > SAME_PLACE_MM:
            places.append(value)
    return along, np.array(places)


def _assemble(series: str, frames: list[Frame]) -> tuple[list[Stack], list[Left]]:
    """One series' frames of one geometry and kind as one stack of as many volumes as each position has repetitions."""
    along, places = _positions(frames)
    by_place: list[list[Frame]] = [[] for _ in places]
    for frame, value in zip(frames, along):
        by_place[int(np.abs(places - value).argmin())].append(frame)
    step, index = _grid(places)
    if step is None:
        return [], [Left(f, "gap", index) for f in frames]
    slots = int(index.max()) + 1
    lacking = slots - len(places)
    if lacking > MOST_MISSING * slots:
        return [], [
            Left(f, "gap", f"{lacking} of {slots} slices are missing, more than {MOST_MISSING:.0%}")
            for f in frames
        ]
    volumes = _volumes(by_place, index, slots)
    left: list[Left] = []
    whole = []
    for volume in volumes:
        absent = sum(f is None for f in volume)
        if absent > MOST_MISSING * slots:
            reason = f"a repetition of {slots - absent} of {slots} slices: more than {MOST_MISSING:.0%} are missing"
            left += [Left(f, "gap", reason) for f in volume if f is not None]
        else:
            whole.append(tuple(volume))
    if not whole:
        return [], left
    bottom = min(frames, key=lambda f: np.dot(_normal(f), f.position))
    top = max(frames, key=lambda f: np.dot(_normal(f), f.position))
    row, column = np.array(bottom.orientation[:3]), np.array(bottom.orientation[3:])
    if slots > 1:
        slice_step = (np.array(top.position) - np.array(bottom.position)) / (slots - 1)
    else:
        slice_step = _normal(bottom) * (bottom.facts.get("SliceThickness") or 1.0)
    steps = np.stack([row * bottom.spacing[1], column * bottom.spacing[0], slice_step], 1)
    missing = sum(f is None for volume in whole for f in volume)
    return [Stack((series,), tuple(whole), bottom.position, steps, _facts(whole, missing), missing)], left


def _grid(places: NDArray) -> tuple[float | None, NDArray | str]:
    """The step between slices and each place's slot; a sentence where the places are on no regular grid."""
    if len(places) == 1:
        return 1.0, np.zeros(1, int)
    gaps = np.diff(places)
    step = float(np.median(gaps))
    step = float(gaps[gaps < 1.5 * step].mean()) if (gaps < 1.5 * step).any() else step
    index = np.concatenate([[0], np.cumsum(np.round(gaps / step).astype(int))])
    fitted = places[0] + index * (places[-1] - places[0]) / max(1, index[-1])
    if np.abs(fitted - places).max() > 0.25 * step or (np.diff(index) == 0).any():
        return None, f"slices lie at irregular distances, {gaps.min():.2f} to {gaps.max():.2f} mm"
    return step, index


def _volumes(by_place: list[list[Frame]], index: NDArray, slots: int) -> list[list[Frame | None]]:
    """Repetitions side by side: by b-value and time where each of these groups has a position once, else by order."""
    every = [frame for frames in by_place for frame in frames]
    for key in (
        lambda f: (f.b_value or 0.0,),
        lambda f: (f.b_value or 0.0, f.order[0], f.order[1]),
        lambda f: (f.b_value or 0.0, f.order[3]),
        lambda f: (f.b_value or 0.0, f.order[2]),
        lambda f: (f.b_value or 0.0, f.time_s or 0.0),
    ):
        if all(len({key(f) for f in frames}) == len(frames) for frames in by_place):
            values = sorted({key(f) for f in every})
            if len(values) <= 2 * max(map(len, by_place)):
                made: list[list[Frame | None]] = [[None] * slots for _ in values]
                for slot, frames in zip(index, by_place):
                    for frame in frames:
                        made[values.index(key(frame))][int(slot)] = frame
                return made
    made = [[None] * slots for _ in range(max(map(len, by_place)))]
    for slot, frames in zip(index, by_place):
        ordered = sorted(
            frames,
            key=lambda f: (
                f.b_value or 0.0,
                *f.order[:2],
                f.time_s or 0.0,
                f.order[2],
                f.order[3],
                f.order[4],
                f.file,
            ),
        )
        for number, frame in enumerate(ordered):
            made[number][int(slot)] = frame
    return made


def _facts(volumes: Sequence[Sequence[Frame | None]], missing: int) -> dict:
    """The first frame's facts, and one number a volume for b-values and times."""
    firsts = [next(f for f in volume if f is not None) for volume in volumes]
    facts = dict(firsts[0].facts)
    b_values = [f.b_value for f in firsts]
    # Philips writes b = 0 into series that are no diffusion.
    planar = (
        "EP" in facts.get("ScanningSequence", ())
        or "DIFFUSION" in facts.get("ImageType", ())
        or "diffusion" in facts.get("described_as", ())
    )
    if any(b_values) or (planar and any(b is not None for b in b_values)):
        facts["DiffusionBValue"] = [float(b or 0.0) for b in b_values]
    elif len(volumes) > 1:
        facts |= _times(volumes)
    if missing:
        facts["missing_slices"] = missing
    return facts


def _times(volumes: Sequence[Sequence[Frame | None]]) -> dict:
    times = [
        min((f.time_s for f in volume if f is not None and f.time_s is not None), default=None)
        for volume in volumes
    ]
    if any(t is None for t in times) or len(set(times)) < len(times):
        return {"repetitions": len(volumes)}
    start = min(times)
    return {"PhaseTime_s": [round((t - start) % 86400, 3) for t in times]}


def _merged(stacks: list[Stack]) -> list[Stack]:
    """One series a phase becomes one stack: gradient echoes of one geometry, TR, TE and flip angle, at different times."""
    groups: dict[tuple, list[Stack]] = defaultdict(list)
    made = []
    for stack in stacks:
        facts = stack.facts
        dynamic = (
            "GR" in facts.get("ScanningSequence", ())
            and "DiffusionBValue" not in facts
            and len(stack.volumes) == 1
        )
        if dynamic and _start(stack) is not None:
            key = (stack.shape, *np.round(stack.origin, 2), *np.round(stack.steps, 3).ravel(),
                   *(facts.get(n) for n in ("RepetitionTime", "EchoTime", "FlipAngle", "fat_saturated")), tuple(facts.get("ImageType", ())))  # fmt: skip
            groups[key].append(stack)
        else:
            made.append(stack)
    for members in groups.values():
        members.sort(key=_start)
        starts = [_start(s) for s in members]
        if len(members) < 2 or len(set(starts)) < len(starts):
            made += members
            continue
        volumes = tuple(v for s in members for v in s.volumes)
        late = members[-1].facts
        facts = {
            **members[0].facts,
            **_times(volumes),
            "contrast_agent": any(s.facts.get("contrast_agent") for s in members),
        }
        if "described_as" in late:
            facts["described_as"] = sorted({w for s in members for w in s.facts.get("described_as", ())})
        missing = sum(s.missing for s in members)
        made.append(
            replace(
                members[0],
                series=tuple(s.series[0] for s in members),
                volumes=volumes,
                facts=facts,
                missing=missing,
            )
        )
    return made


def _start(stack: Stack) -> float | None:
    return min((f.time_s for f in stack.volumes[0] if f is not None and f.time_s is not None), default=None)
