"""Frames → stacks, as properties: whatever the order, the orientation and what is missing, each frame has its one place."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mmvae.ingest.dicom.frame import Frame, Pixels
from mmvae.ingest.dicom.stacks import stacks_of

ROWS, COLUMNS = 5, 7


def frame(number, position, turn, spacing, b_value=None, phase=0, time_s=None, size=(ROWS, COLUMNS)):
    pixels = Pixels(*size, 1, 16, 16, 15, False, "1.2.840.10008.1.2.1", None, 1)
    orientation = (*map(float, turn[:, 0]), *map(float, turn[:, 1]))
    order = (0.0, float(phase), 0.0, 0.0, float(number))
    return Frame(number, 0, pixels, tuple(map(float, position)), orientation, spacing, 1.0, 0.0, {"Modality": "MR"}, b_value, time_s, order)  # fmt: skip


@st.composite
def grids(draw):
    """A regular grid of slices × b-values or phases in any orientation, its frames shuffled, at most a fifth of the slices gone."""
    slices, repeats = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    turn = Rotation.from_rotvec(draw(st.lists(st.floats(-3, 3), min_size=3, max_size=3))).as_matrix()
    spacing = (draw(st.floats(0.3, 4.0)), draw(st.floats(0.3, 4.0)))
    step, origin = draw(st.floats(0.5, 8.0)), np.array([draw(st.floats(-300, 300)) for _ in range(3)])
    diffusion = draw(st.booleans())
    dropped = [
        draw(st.sets(st.integers(0, slices - 1), max_size=slices // 5)) if slices >= 5 else set()
        for _ in range(repeats)
    ]
    frames = []
    for r in range(repeats):
        for s in range(slices):
            if s in dropped[r]:
                continue
            repeat = {"b_value": 100.0 * r} if diffusion else {"phase": r + 1, "time_s": 3e4 + 10.0 * r}
            frames.append(frame(len(frames), origin + s * step * turn[:, 2], turn, spacing, **repeat))
    return frames, draw(st.permutations(frames)), turn, spacing


@settings(max_examples=120, deadline=None)
@given(grids())
def test_a_regular_grid_gives_one_stack_whose_matrix_leads_to_every_frame(grid):
    frames, shuffled, turn, spacing = grid
    stacks, unused = stacks_of(("1.2.3", f) for f in shuffled)
    assert unused == []
    (stack,) = stacks
    found = set()
    for volume in stack.volumes:
        for s, member in enumerate(volume):
            if member is not None:
                np.testing.assert_allclose((stack.affine @ [0, 0, s, 1])[:3], member.position, atol=1e-3)
                found.add(member.file)
    assert found == {f.file for f in frames}  # each is in the stack, once
    assert len(stack.frames) == len(frames)
    corner = np.array(stack.volumes[0][0].position) if stack.volumes[0][0] else None
    if corner is not None:  # a voxel's place from the frame's own geometry (PS3.3 C.7.6.2.1.1)
        c, r = COLUMNS - 1, ROWS - 1
        there = corner + c * spacing[1] * turn[:, 0] + r * spacing[0] * turn[:, 1]
        np.testing.assert_allclose((stack.affine @ [c, r, 0, 1])[:3], there, atol=1e-3)
    # A volume holds one b-value, or one phase.
    for volume in stack.volumes:
        assert len({(f.b_value, f.order[1]) for f in volume if f is not None}) == 1


@settings(max_examples=60, deadline=None)
@given(grids(), st.data())
def test_jitter_of_the_header_s_last_digit_splits_nothing(grid, data):
    """Direction cosines are written with six digits: a difference of 4e-7 is none, wherever a rounded key would cut."""
    _, shuffled, _, _ = grid
    shaken = [
        replace(
            f, orientation=tuple(v + data.draw(st.sampled_from([-4e-7, 0.0, 4e-7])) for v in f.orientation)
        )
        for f in shuffled
    ]
    stacks, unused = stacks_of(("1.2.3", f) for f in shaken)
    assert (len(stacks), unused) == (1, [])


@settings(max_examples=80, deadline=None)
@example(
    0.005, [-4e-7, 4e-7, 0.0]
)  # where two decimals change: a key of rounded numbers made two stacks of it
@given(st.floats(-300, 300), st.lists(st.sampled_from([-4e-7, 0.0, 4e-7]), min_size=3, max_size=3))
def test_phases_of_one_series_each_are_one_stack_wherever_their_grid_begins(start, jitter):
    def phases(offsets):
        for phase, offset in enumerate(offsets):
            for s in range(6):
                at = (start + offset, 0.0, 4.0 * s)
                plane = frame(6 * phase + s, at, np.eye(3), (1.0, 1.0), time_s=3e4 + 30 * phase)
                yield f"1.2.{phase}", replace(plane, facts={"Modality": "MR", "ScanningSequence": ["GR"]})

    stacks, unused = stacks_of(phases(jitter))
    assert ([len(stack.volumes) for stack in stacks], unused) == ([3], [])
    elsewhere, _ = stacks_of(phases([0.0, 0.0, 0.1]))
    assert sorted(len(stack.volumes) for stack in elsewhere) == [1, 2]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True), st.randoms(use_true_random=False))
def test_whatever_is_there_every_frame_is_accounted_for_once(places, random):
    frames = [frame(n, (0, 0, 3.0 * z), np.eye(3), (1.0, 1.0)) for n, z in enumerate(places)]
    random.shuffle(frames)
    stacks, unused = stacks_of(("1.2.3", f) for f in frames)
    accounted = [f.file for stack in stacks for f in stack.frames] + [u.frame.file for u in unused]
    assert sorted(accounted) == sorted(f.file for f in frames)
    assert all(stack.missing <= 0.2 * len(stack.volumes[0]) * len(stack.volumes) for stack in stacks)


TILTED = Rotation.from_euler("x", 30, degrees=True).as_matrix()


@pytest.mark.parametrize(
    ("stray", "named"),
    [
        ({"size": (9, 7)}, r"9 × 7 samples .* in a series of 5 × 7"),
        ({"spacing": (2.0, 1.0)}, r"of 2 × 1 mm .* in a series of .*1 × 1 mm"),
        ({"turn": TILTED}, r"normal \(.*0.87\).* normal \(0.00, -?0.00, 1.00\)"),
    ],
)
def test_a_stray_frame_of_another_geometry_is_mixed_geometry(stray, named):
    series = [frame(n, (0, 0, 4.0 * n), np.eye(3), (1.0, 1.0)) for n in range(12)]
    other = {"turn": np.eye(3), "spacing": (1.0, 1.0), **stray}
    lost = frame(12, (5, 5, 20), other.pop("turn"), other.pop("spacing"), **other)
    stacks, (unused,) = stacks_of(("1.2.3", f) for f in [*series, lost])
    assert len(stacks) == 1
    assert (unused.frame.file, unused.code, unused.series) == (12, "mixed_geometry", "1.2.3")
    assert re.search(named, unused.reason)


def test_three_planes_of_one_series_are_three_stacks():
    """Many frames of each geometry, or in each its own series: nothing is a stray there."""
    turns = [np.eye(3), Rotation.from_euler("x", 90, degrees=True).as_matrix(), TILTED]
    frames = [
        frame(10 * t + n, 4.0 * n * turn[:, 2], turn, (1.0, 1.0))
        for t, turn in enumerate(turns)
        for n in range(8 - t)
    ]
    stacks, unused = stacks_of(("1.2.3", f) for f in frames)
    assert (len(stacks), unused) == (3, [])
    lone = frame(99, (5, 5, 20), TILTED, (1.0, 1.0))
    stacks, unused = stacks_of([*(("1.2.3", f) for f in frames[:8]), ("4.5.6", lone)])
    assert (len(stacks), unused) == (2, [])
