"""One motion a case: grids of different shape and spacing turn together about the frame."""

import torch

from mmvae.batch import Motion, MotionRange, Observation
from mmvae.blocks.geometry import move


def blob(shape, spacing, at):
    """A Gaussian blob at a point (x, y, z in mm from the frame) on a grid (superior, posterior, left)."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    value = torch.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2) / (2 * 5.0**2))
    return Observation(value[None], torch.ones(1, *shape, dtype=torch.bool))


def centre(seen, spacing):
    shape = seen.value.shape[1:]
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flip(0)
    weight = seen.value[0].clamp_min(0)
    return (grid * weight).flatten(1).sum(1) / weight.sum()


def test_a_landmark_moves_alike_on_two_grids_and_where_the_matrix_says():
    point = torch.tensor([14.0, -9.0, 6.0])
    motion = Motion((20.0, -10.0, 15.0), (4.0, 3.0, -2.0), 1.1, flip=True)
    wanted = (motion.matrix() @ torch.cat([point, torch.ones(1)]))[:3]
    for shape, spacing in (((41, 41, 41), (2.0, 2.0, 2.0)), ((31, 61, 51), (3.0, 1.5, 2.0))):
        found = centre(move(blob(shape, spacing, point), motion, spacing), spacing)
        torch.testing.assert_close(found, wanted, atol=0.35, rtol=0)


def test_what_comes_from_outside_is_masked():
    seen = blob((8, 8, 8), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    moved = move(seen, Motion(translation_mm=(8.0, 0.0, 0.0)), (2.0, 2.0, 2.0))
    assert not moved.mask[..., :4].any()
    assert moved.mask[..., 4:].all()


def test_a_range_of_nothing_draws_no_motion_and_a_seed_draws_the_same():
    assert MotionRange().draw(torch.Generator().manual_seed(0)) == Motion(
        (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, False
    )
    wide = MotionRange(10.0, 5.0, 0.1, True)
    assert wide.draw(torch.Generator().manual_seed(4)) == wide.draw(torch.Generator().manual_seed(4))
