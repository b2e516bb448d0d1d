"""Sorts repeated frames at the same positions into volumes, by b-value, phase and time; and the facts of the volumes."""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from mmvae.ingest.dicom.frame import Frame

Volumes = Sequence[Sequence[Frame | None]]

# Keys that may distinguish the repetitions of one position, the best first: the b-value alone, or with the temporal position,
# the vendor's phase, the acquisition's number, the time.
_KEYS: tuple[Callable[[Frame], tuple[float, ...]], ...] = (
    lambda f: (f.b_value or 0.0,),
    lambda f: (f.b_value or 0.0, f.order[0], f.order[1]),
    lambda f: (f.b_value or 0.0, f.order[3]),
    lambda f: (f.b_value or 0.0, f.order[2]),
    lambda f: (f.b_value or 0.0, f.time_s or 0.0),
)


def volumes_of(by_place: Sequence[Sequence[Frame]], index: NDArray, slots: int) -> list[list[Frame | None]]:
    """Volumes of `slots` slices each; None stands for a missing frame.

    Args:
        by_place: Frames at each position along the normal.
        index: Slice number of each position.
        slots: Number of slices.
    """
    most = max(map(len, by_place))
    for key in _KEYS:
        if any(len({key(f) for f in frames}) < len(frames) for frames in by_place):
            continue  # two frames at one position would fall into one volume
        values = sorted({key(f) for frames in by_place for f in frames})
        if len(values) <= 2 * most:
            number = {value: v for v, value in enumerate(values)}
            volumes: list[list[Frame | None]] = [[None] * slots for _ in values]
            for slot, frames in zip(index, by_place):
                for frame in frames:
                    volumes[number[key(frame)]][int(slot)] = frame
            return volumes
    return _in_order(by_place, index, slots)


def _in_order(by_place: Sequence[Sequence[Frame]], index: NDArray, slots: int) -> list[list[Frame | None]]:
    """Volumes in which the nth frame of each position, sorted by all that distinguishes frames, is in the nth volume."""
    volumes: list[list[Frame | None]] = [[None] * slots for _ in range(max(map(len, by_place)))]
    for slot, frames in zip(index, by_place):
        for number, frame in enumerate(sorted(frames, key=_order)):
            volumes[number][int(slot)] = frame
    return volumes


def _order(frame: Frame) -> tuple[float | int, ...]:
    temporal_index, temporal_identifier, acquisition, phase, instance = frame.order
    time = frame.time_s or 0.0
    return (frame.b_value or 0.0, temporal_index, temporal_identifier, time, acquisition, phase, instance, frame.file)  # fmt: skip


def stack_facts(volumes: Volumes, missing: int) -> dict[str, Any]:
    """The first frame's facts, and one number per volume for b-values and times."""
    firsts = [next(f for f in volume if f is not None) for volume in volumes]
    facts = dict(firsts[0].facts)
    b_values = [f.b_value for f in firsts]
    # Philips writes b = 0 into series that are not diffusion.
    planar = (
        "EP" in facts.get("ScanningSequence", ())
        or "DIFFUSION" in facts.get("ImageType", ())
        or "diffusion" in facts.get("described_as", ())
    )
    if any(b_values) or (planar and any(b is not None for b in b_values)):
        facts["DiffusionBValue"] = [float(b or 0.0) for b in b_values]
    elif len(volumes) > 1:
        facts |= dynamic_times(volumes)
    if missing:
        facts["missing_slices"] = missing
    return facts


def dynamic_times(volumes: Volumes) -> dict[str, Any]:
    """Seconds after the first volume, one per volume; only the number of volumes if times are unknown or all equal."""
    starts = [
        min((f.time_s for f in volume if f is not None and f.time_s is not None), default=None)
        for volume in volumes
    ]
    times = [start for start in starts if start is not None]
    if len(set(times)) < len(volumes):
        return {"repetitions": len(volumes)}
    return {"PhaseTime_s": [round((time - min(times)) % 86400, 3) for time in times]}
