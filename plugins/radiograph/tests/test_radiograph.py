"""A picture keeps its proportions and its orientation; it conforms to the contract."""

import nibabel
import numpy as np
import pytest
import torch
from mmvae_radiograph import Radiograph

from mmvae.batch import Motion
from mmvae.case import Asset, View
from mmvae.errors import InputError
from mmvae.testing import CHECKS, Subject


def view_of(folder, name, rows_by_columns):
    """As a scan writes it: column runs along the first axis, row along the second, one slice."""
    nibabel.save(
        nibabel.Nifti1Image(rows_by_columns.T[:, :, None], np.diag([-1.0, -1, 1, 1])),
        folder / f"{name}.nii.gz",
    )
    return View(folder, (Asset("image", f"{name}.nii.gz", name, "radiograph"),))


def views_of(folder):
    folder = folder / "DOE^JANE"
    folder.mkdir()
    rng = np.random.default_rng(0)
    return [
        view_of(folder, str(n), rng.integers(0, 255, (40 + 10 * n, 60)).astype(np.uint8)) for n in range(4)
    ]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(check, tmp_path):
    views = views_of(tmp_path)
    check(Subject(Radiograph(size=24), views[:3], views[3:], identifiers=("DOE^JANE", "JANE")))


def test_a_wide_picture_stays_wide_and_upright_and_its_padding_is_masked(tmp_path):
    picture = np.zeros((50, 100), np.float32)
    picture[:10, :20] = 200.0  # a mark in the upper left corner
    observation = Radiograph(size=40).read(view_of(tmp_path, "wide", picture))
    mask = observation.mask[0, 0]
    assert mask.sum() == 20 * 40
    assert mask[10:30].all() and not mask[:10].any() and not mask[30:].any()
    brightest = (observation.value[0, 0] > observation.value[0, 0].max() / 2).nonzero().float().mean(0)
    np.testing.assert_allclose(brightest, [10 + 1.5, 3.5], atol=0.3)


def test_a_motion_turns_it_in_its_own_plane_only(tmp_path):
    picture = np.zeros((40, 40), np.float32)
    picture[5:9, 18:22] = 100.0
    recipe = Radiograph(size=40, intensity_jitter=0.0)
    observation = recipe.read(view_of(tmp_path, "mark", picture))
    at = lambda o: (o.value[0, 0] * o.mask[0, 0]).clamp_min(0.5).sub(0.5).nonzero().float().mean(0)  # noqa: E731
    turned = recipe.augment(observation, Motion((30.0, -25.0, 90.0), (0.0, 0.0, 40.0)), torch.Generator())
    before, after = at(observation) - 19.5, at(turned) - 19.5
    assert float(before.norm()) == pytest.approx(float(after.norm()), abs=0.7)
    assert abs(float(before @ after)) < 10  # a right angle
    scaled = recipe.augment(observation, Motion(scale=1.2), torch.Generator())
    assert float((at(scaled) - 19.5).norm()) == pytest.approx(1.2 * float(before.norm()), abs=1.0)
    assert scaled.mask.float().mean() > 0.9


def test_a_stack_is_refused_by_name_of_what_was_found(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 3), np.int16), np.eye(4)), tmp_path / "s.nii.gz")
    with pytest.raises(InputError, match=r"1 volumes of 3 slices"):
        Radiograph(size=8).read(View(tmp_path, (Asset("image", "s.nii.gz", "0"),)))
