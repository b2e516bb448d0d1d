"""The MRI modalities hold to the contract, and give the numbers that the physics put in."""

import nibabel
import numpy as np
import pytest
import torch
from mmvae_mri.contrast import Contrast, at_times
from mmvae_mri.dwi import DWI, apparent_diffusion
from mmvae_mri.structural import FLAIR, T1, T2

from mmvae.case import Asset, Lesion, View
from mmvae.errors import InputError
from mmvae.testing import CHECKS, Subject

SMALL = {"shape": (4, 12, 12), "spacing_mm": (6.0, 4.0, 4.0)}
FACTS = {"dwi": {"DiffusionBValue": [0, 400, 1000]}, "contrast": {"PhaseTime_s": [0, 35, 71, 108, 190]}}


def views_of(kind, folder):
    """Four cases of noise about a bright ellipsoid, each on a grid of its own."""
    made, rng = [], np.random.default_rng(0)
    folder = folder / "DOE^JANE"
    folder.mkdir()
    for number in range(4):
        n = len(next(iter(FACTS.get(kind, {}).values()), [0]))
        z, y, x = np.meshgrid(
            np.linspace(-1, 1, 9 + number), np.linspace(-1, 1, 24), np.linspace(-1, 1, 24), indexing="ij"
        )
        body = 300.0 * (x**2 + y**2 + z**2 < 0.9) + 200 * (x**2 + y**2 < 0.1)
        stack = np.stack(
            [body * np.exp(-0.3 * k) + rng.normal(20, 4, body.shape) for k in range(n)], -1
        ).transpose(2, 1, 0, 3)
        affine = np.diag([-3.0, -3.0, 5.0, 1.0])
        affine[:3, 3] = [34, 34, -20]
        nibabel.save(
            nibabel.Nifti1Image(np.abs(stack).astype(np.int16).squeeze(), affine), folder / f"{number}.nii.gz"
        )
        asset = Asset("volume", f"{number}.nii.gz", str(number), kind, 1.0, None, FACTS.get(kind, {}))
        made.append(View(folder, (asset,), lesion=Lesion((0.0, 2.0, 1.0)), frame_mm=(0.0, 2.0, 1.0)))
    return made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("cls", [T1, T2, FLAIR, DWI, Contrast], ids=lambda cls: cls.__name__)
def test_conforms(cls, check, tmp_path):
    views = views_of(cls.__name__.lower(), tmp_path)
    check(Subject(cls(**SMALL), views[:3], views[3:], identifiers=("DOE^JANE", "JANE")))


@pytest.mark.parametrize("preset", ["cpu", "workstation", "h100"])
def test_every_preset_builds_and_scores(preset):
    recipe = T2(**SMALL, preset=preset)
    value, mask = torch.randn(1, 1, 4, 12, 12), torch.ones(1, 1, 4, 12, 12, dtype=torch.bool)
    assert recipe.encoder(8)(value, mask).mean.shape == (1, 8)
    assert recipe.decoder(8)(torch.randn(1, 8)).log_prob(value).shape == mask.shape


def test_recovers_the_diffusion_it_was_simulated_with():
    b = torch.tensor([0.0, 500.0, 1000.0])
    water = 2.3e-3  # mm²/s, free water near 25 °C
    signal = 900 * torch.exp(-b * water)[:, None, None, None].expand(3, 2, 2, 2)
    torch.testing.assert_close(apparent_diffusion(signal, b), torch.full((2, 2, 2), water))


def test_one_b_value_is_refused_with_the_values():
    with pytest.raises(ValueError, match=r"\[800.0, 800.0\] s/mm².*lose its b=0"):
        apparent_diffusion(torch.ones(2, 1, 1, 1), torch.tensor([800.0, 800.0]))


def test_a_count_of_b_values_that_does_not_fit_is_refused(tmp_path):
    view = views_of("dwi", tmp_path)[0]
    wrong = Asset("volume", view.assets[0].uri, "0", "dwi", 1.0, None, {"DiffusionBValue": [0, 1000]})
    with pytest.raises(InputError, match=r"3 volumes.*lists 2 b-values"):
        DWI(**SMALL).read(View(view.root, (wrong,), frame_mm=view.frame_mm))


def test_phases_are_interpolated_in_time_and_masked_where_not_covered():
    phases = torch.arange(3.0)[:, None, None, None].expand(3, 1, 1, 1) ** 2  # 0, 1, 4 at 0, 30, 90 s
    value, covered = at_times(phases, torch.tensor([0.0, 30.0, 90.0]), torch.tensor([15.0, 60.0, 120.0]))
    oracle = np.interp([15, 60], [0, 30, 90], [0, 1, 4])
    np.testing.assert_allclose(value[:2].flatten().numpy(), oracle, rtol=1e-6)
    assert covered.tolist() == [True, True, False]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_phases_is_read(count, tmp_path):
    array = np.random.default_rng(0).integers(100, 300, (12, 12, 6, count)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-4.0, -4.0, 6.0, 1.0])), tmp_path / "0.nii.gz")
    facts = {"PhaseTime_s": [40.0 * n for n in range(count)]}
    view = View(
        tmp_path,
        (Asset("volume", "0.nii.gz", "0", "contrast", 1.0, None, facts),),
        frame_mm=(22.0, 22.0, 15.0),
    )
    seen = Contrast(**SMALL).read(view)
    assert seen.mask[0].any()
    assert bool(seen.mask[2].any()) == (count > 1)
    assert bool(seen.mask[6].any()) == (count == 7)  # only seven phases of 40 s reach 160 s


def test_an_unreadable_volume_is_named(tmp_path):
    (tmp_path / "0.nii.gz").write_bytes(b"\x1f\x8b not gzip")
    view = View(tmp_path, (Asset("volume", "0.nii.gz", "0", "t2"),), frame_mm=(0.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"0\.nii\.gz: not a readable NIfTI"):
        T2(**SMALL).read(view)


def test_about_the_lesion_refuses_a_case_without_a_point(tmp_path):
    view = views_of("t2", tmp_path)[0]
    with pytest.raises(InputError, match="no lesion point"):
        T2(**SMALL, about="lesion").read(View(view.root, view.assets, frame_mm=view.frame_mm))


def test_fat_saturation_and_plane_narrow_what_is_selected():
    asset = lambda uri, **facts: Asset("volume", uri, uri, "t1", 0.9, None, facts)  # noqa: E731
    plain, saturated, after = (
        asset("a"),
        asset("b", fat_saturated=True, plane="sagittal"),
        asset("c", contrast_agent=True),
    )
    assert list(T1().select([saturated, plain, after])) == [plain]
    assert list(T1(fat_saturated=True).select([saturated, plain])) == [saturated]
    assert list(T1(fat_saturated=True, plane="axial").select([saturated])) == []
    assert list(T1(fat_saturated=None, contrast_agent=None).select([after, saturated])) == [saturated]


def test_landmarks_land_where_their_millimetres_say(tmp_path):
    """A point in patient mm is found at the grid's voxel by arithmetic of its own, on two source grids."""
    point = np.array([11.0, -7.0, 9.0])  # LPS
    frame = (3.0, 1.0, -2.0)
    peaks = []
    for number, axes in enumerate(
        (np.diag([-2.0, -2.0, 3.0]), np.array([[0, 0, 2.5], [-2.0, 0, 0], [0, 2.0, 0]]))
    ):
        affine = np.eye(4)
        affine[:3, :3] = axes
        size = (60, 60, 40)
        affine[:3, 3] = -axes @ (np.array(size) - 1) / 2
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
        ras = grid @ affine[:3, :3].T + affine[:3, 3]
        lps = ras * [-1, -1, 1]
        blob = 1000 * np.exp(-((lps - point) ** 2).sum(-1) / (2 * 4.0**2))
        nibabel.save(nibabel.Nifti1Image(blob.astype(np.float32), affine), tmp_path / f"{number}.nii.gz")
        view = View(tmp_path, (Asset("volume", f"{number}.nii.gz", "0", "t2"),), frame_mm=frame)
        seen = T2(shape=(21, 31, 31), spacing_mm=(2.0, 2.0, 2.0)).read(view)
        weight = (seen.value[0] - seen.value[0].min()).clamp_min(0).double() ** 4
        index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in weight.shape), indexing="ij"))
        peaks.append((index * weight).flatten(1).sum(1) / weight.sum())
    wanted = (point[::-1] - np.array(frame[::-1])) / 2 + (np.array([21, 31, 31]) - 1) / 2
    for peak in peaks:
        np.testing.assert_allclose(peak.numpy(), wanted, atol=0.15)


def test_headers_are_claimed_by_their_facts():
    facts = lambda **kw: {"type": "volume", **kw}  # noqa: E731
    t2 = facts(ScanningSequence="SE", EchoTime=100, RepetitionTime=4000)
    flair = facts(ScanningSequence="SE", EchoTime=110, RepetitionTime=9000, InversionTime=2500)
    diffusion = facts(ScanningSequence="EP", EchoTime=70, RepetitionTime=5000, DiffusionBValue=[0, 800])
    series = facts(
        ScanningSequence="GR", EchoTime=1.4, RepetitionTime=4, FlipAngle=12, PhaseTime_s=[0, 20, 40, 60]
    )
    t1 = facts(ScanningSequence="SE", EchoTime=10, RepetitionTime=600)
    for kind, one in (("T2", t2), ("FLAIR", flair), ("DWI", diffusion), ("Contrast", series), ("T1", t1)):
        claims = {cls.__name__: cls().claims(one) for cls in (T1, T2, FLAIR, DWI, Contrast)}
        assert max(claims, key=claims.get) == kind
        assert claims[kind] >= 0.9
