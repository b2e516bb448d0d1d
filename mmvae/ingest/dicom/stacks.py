"""Groups the frames of one study into stacks of one geometry, with slices in order and one volume per b-value or phase."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmvae.case import PointMM
from mmvae.ingest.dicom.frame import Frame
from mmvae.ingest.dicom.repetitions import Volumes, dynamic_times, stack_facts, volumes_of

SAME_PLACE_MM = 0.02
SAME_DIRECTION = 1e-3  # largest difference of a direction cosine within a stack
SAME_SPACING_MM = 1e-4
SAME_STEP_MM = 1e-3  # between the grids of two series
MOST_MISSING = 0.2


@dataclass(frozen=True)
class Stack:
    """Volumes of one geometry: `volumes[v][k]` is the frame of volume v and slice k, None if it is missing.

    Args:
        series: SeriesInstanceUIDs of its frames, in order.
        volumes: Frames by volume and slice.
        origin: Patient LPS mm of the first voxel's centre.
        steps: mm along column, row and slice (columns of a 3 × 3).
        facts: Facts of its first frame, with one number per volume for b-values and times.
        missing: Number of slices in all volumes that no frame covers, to be filled from their neighbours.
        type: `image` for a projection.
    """

    series: tuple[str, ...]
    volumes: Volumes
    origin: PointMM
    steps: NDArray[np.float64]
    facts: Mapping[str, Any]
    missing: int = 0
    type: Literal["volume", "image"] = "volume"

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel (column, row, slice) → patient LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.steps, self.origin
        return matrix

    @property
    def frames(self) -> list[Frame]:
        """Every frame, volume by volume."""
        return [frame for volume in self.volumes for frame in volume if frame is not None]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        rows, columns = self.frames[0].size
        return columns, rows, len(self.volumes[0])


@dataclass(frozen=True)
class UnusedFrame:
    """A frame that no stack uses, its SeriesInstanceUID, and why."""

    series: str
    frame: Frame
    code: str
    reason: str


@dataclass
class _Group:
    """Frames of one series, kind and geometry, and the stack and unused frames that resulted from them."""

    frames: list[Frame] = field(default_factory=list)
    stack: Stack | None = None
    unused: list[UnusedFrame] = field(default_factory=list)

    def fits(self, frame: Frame) -> bool:
        """Whether a frame has the group's geometry, within a tolerance; rounded keys would split stacks at rounding edges."""
        own = self.frames[0]
        return (
            own.size == frame.size
            and max(abs(a - b) for a, b in zip(own.orientation, frame.orientation)) < SAME_DIRECTION
            and max(abs(a - b) for a, b in zip(own.spacing, frame.spacing)) < SAME_SPACING_MM
        )

    @property
    def slices(self) -> int:
        """Number of different positions along the normal."""
        return len(_places(self.frames)[1])


# Tokens of ImageType by which two frames of one stack may differ.
_INDIFFERENT = frozenset(
    {"ND", "NORM", "DIS2D", "DIS3D", "PRIMARY", "SECONDARY", "ORIGINAL", "DERIVED", "NONE", "OTHER", "MIXED"}
)


def _kind_of(frame: Frame) -> tuple[Any, ...]:
    """What must be equal within a stack besides geometry; it keeps derived maps, Dixon images and echoes in separate stacks."""
    facts = frame.facts
    tokens = set(facts.get("ImageType", ())) - _INDIFFERENT
    return tuple(sorted(tokens)), facts.get("EchoTime"), facts.get("InversionTime"), facts.get("FlipAngle")


def stacks_of(frames: Iterable[tuple[str, Frame]]) -> tuple[list[Stack], list[UnusedFrame]]:
    """All stacks of a study's frames, which come with their SeriesInstanceUIDs, and the frames that no stack could use."""
    by_kind: dict[tuple[Any, ...], list[_Group]] = defaultdict(list)
    groups: list[tuple[str, _Group]] = []
    stacks: list[Stack] = []
    for series, frame in frames:
        if frame.picture:
            stacks.append(_picture(series, frame))
            continue
        alike = by_kind[(series, _kind_of(frame))]
        group = next((group for group in alike if group.fits(frame)), None)
        if group is None:
            group = _Group()
            alike.append(group)
            groups.append((series, group))
        group.frames.append(frame)
    for series, group in groups:
        group.stack, group.unused = _assemble(series, group.frames)
    for (series, _), alike in by_kind.items():
        _refuse_strays(series, alike)
    stacks += [group.stack for _, group in groups if group.stack is not None]
    return _merged(stacks), [unused for _, group in groups for unused in group.unused]


def _refuse_strays(series: str, alike: Sequence[_Group]) -> None:
    """Removes groups that disagree with their series in geometry and are too small to be stacks of their own.

    These are groups that give no stack, or have less than a fifth of the slices of the series' largest stack: the largest
    stack would count as complete without so few slices.
    """
    whole = [group for group in alike if group.stack is not None]
    if not whole:
        return
    largest = max(whole, key=lambda group: group.slices)
    for group in alike:
        few = group.slices < MOST_MISSING * largest.slices
        if group is largest or not (group.stack is None or few):
            continue
        reason = (
            f"{_described(group.frames[0])} in a series of {_described(largest.frames[0])}: {group.slices} slices are "
            f"too few for a stack beside one of {largest.slices}"
        )
        group.stack = None
        group.unused = [UnusedFrame(series, frame, "mixed_geometry", reason) for frame in group.frames]


def _described(frame: Frame) -> str:
    rows, columns = frame.size
    normal = ", ".join(f"{v:.2f}" for v in _normal(frame))
    return f"{rows} × {columns} samples of {frame.spacing[0]:.3g} × {frame.spacing[1]:.3g} mm and normal ({normal})"


def _picture(series: str, frame: Frame) -> Stack:
    """A projection as a stack of one slice of 1 mm."""
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    steps = np.stack([row * frame.spacing[1], column * frame.spacing[0], np.cross(row, column)], 1)
    return Stack((series,), ((frame,),), frame.position, steps, frame.facts, type="image")


def _normal(frame: Frame) -> NDArray[np.float64]:
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def _places(frames: Sequence[Frame]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position of each frame along the normal in mm, and the distinct positions, sorted."""
    normal = _normal(frames[0])
    along = np.array([np.dot(normal, f.position) for f in frames])
    order = np.sort(along)
    places = [order[0]]
    for value in order[1:]:
        if value - places[-1] > SAME_PLACE_MM:
            places.append(value)
    return along, np.array(places)


def _assemble(series: str, frames: Sequence[Frame]) -> tuple[Stack | None, list[UnusedFrame]]:
    """The frames of one series, geometry and kind as one stack, with one volume per repetition of a position."""
    along, places = _places(frames)
    by_place: list[list[Frame]] = [[] for _ in places]
    for frame, value in zip(frames, along):
        by_place[int(np.abs(places - value).argmin())].append(frame)
    index = _slots(places)
    if index is None:
        gaps = np.diff(places)
        reason = f"slices have irregular spacing, {gaps.min():.2f} to {gaps.max():.2f} mm"
        return None, [UnusedFrame(series, f, "gap", reason) for f in frames]
    slots = int(index.max()) + 1
    lacking = slots - len(places)
    if lacking > MOST_MISSING * slots:
        reason = f"{lacking} of {slots} slices are missing, more than {MOST_MISSING:.0%}"
        return None, [UnusedFrame(series, f, "gap", reason) for f in frames]
    unused: list[UnusedFrame] = []
    whole: list[tuple[Frame | None, ...]] = []
    for volume in volumes_of(by_place, index, slots):
        absent = sum(f is None for f in volume)
        if absent > MOST_MISSING * slots:
            reason = f"a repetition of {slots - absent} of {slots} slices: more than {MOST_MISSING:.0%} are missing"
            unused += [UnusedFrame(series, f, "gap", reason) for f in volume if f is not None]
        else:
            whole.append(tuple(volume))
    if not whole:
        return None, unused
    missing = sum(f is None for volume in whole for f in volume)
    origin, steps = _grid(frames, along, slots)
    return Stack((series,), tuple(whole), origin, steps, stack_facts(whole, missing), missing), unused


def _grid(frames: Sequence[Frame], along: NDArray, slots: int) -> tuple[PointMM, NDArray[np.float64]]:
    """Origin and steps of the voxels, from the lowest and the highest frame."""
    bottom, top = frames[int(along.argmin())], frames[int(along.argmax())]
    row, column = np.array(bottom.orientation[:3]), np.array(bottom.orientation[3:])
    if slots > 1:
        slice_step = (np.array(top.position) - np.array(bottom.position)) / (slots - 1)
    else:
        slice_step = _normal(bottom) * (bottom.facts.get("SliceThickness") or 1.0)
    return bottom.position, np.stack([row * bottom.spacing[1], column * bottom.spacing[0], slice_step], 1)


def _slots(places: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """The slice number of each position on the regular grid on which they lie; None if there is no such grid."""
    if len(places) == 1:
        return np.zeros(1, np.int64)
    gaps = np.diff(places)
    step = float(np.median(gaps))
    step = float(gaps[gaps < 1.5 * step].mean()) if (gaps < 1.5 * step).any() else step
    index = np.concatenate([[0], np.cumsum(np.round(gaps / step).astype(np.int64))])
    fitted = places[0] + index * (places[-1] - places[0]) / max(1, index[-1])
    if np.abs(fitted - places).max() > 0.25 * step or (np.diff(index) == 0).any():
        return None
    return index


def _merged(stacks: Sequence[Stack]) -> list[Stack]:
    """Merges dynamic phases stored as one series each: gradient echoes of one geometry, TR, TE and flip angle, at different times."""
    by_protocol: dict[tuple[Any, ...], list[list[tuple[float, Stack]]]] = defaultdict(list)
    merged: list[Stack] = []
    for stack in stacks:
        facts, start = stack.facts, _start(stack)
        single = len(stack.volumes) == 1 and "DiffusionBValue" not in facts
        if start is None or not (single and "GR" in facts.get("ScanningSequence", ())):
            merged.append(stack)
            continue
        timing = (facts.get(n) for n in ("RepetitionTime", "EchoTime", "FlipAngle", "fat_saturated"))
        groups = by_protocol[(stack.shape, *timing, tuple(facts.get("ImageType", ())))]
        members = next((group for group in groups if _same_grid(group[0][1], stack)), None)
        if members is None:
            groups.append(members := [])
        members.append((start, stack))
    for members in (group for groups in by_protocol.values() for group in groups):
        members.sort(key=lambda member: member[0])
        phases = [stack for _, stack in members]
        if len({start for start, _ in members}) < len(members) or len(members) < 2:
            merged += phases
        else:
            merged.append(_joined(phases))
    return merged


def _same_grid(a: Stack, b: Stack) -> bool:
    """Whether two stacks of one shape have their voxels in the same places; by tolerance, since a rounded key has edges."""
    same_origin = np.allclose(a.origin, b.origin, rtol=0, atol=SAME_PLACE_MM)
    return same_origin and np.allclose(a.steps, b.steps, rtol=0, atol=SAME_STEP_MM)


def _joined(phases: Sequence[Stack]) -> Stack:
    """Several stacks of one phase each as one stack."""
    volumes = tuple(volume for phase in phases for volume in phase.volumes)
    facts = {
        **phases[0].facts,
        **dynamic_times(volumes),
        "contrast_agent": any(phase.facts.get("contrast_agent") for phase in phases),
    }
    if "described_as" in phases[-1].facts:
        facts["described_as"] = sorted({word for p in phases for word in p.facts.get("described_as", ())})
    series, missing = tuple(p.series[0] for p in phases), sum(p.missing for p in phases)
    return replace(phases[0], series=series, volumes=volumes, facts=facts, missing=missing)


def _start(stack: Stack) -> float | None:
    """Start of the first volume, in seconds since midnight."""
    times = (f.time_s for f in stack.volumes[0] if f is not None)
    return min((time for time in times if time is not None), default=None)
