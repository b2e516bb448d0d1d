"""DICOM files → stacks, beside dcm2niix: the same voxels at the same places, and every series of a known kind for the right reason."""

import csv
import json
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.ingest.dicom.header import quiet, read_header
from mmvae.ingest.dicom.stacks import stacks_of
from mmvae.ingest.dicom.volumes import volume_of
from mmvae.ingest.skipped import Unusable

TABLE = Path(__file__).parent / "tables" / "series_by_hand.csv"
ROOTS = {"zoo": "dicom_zoo", "prostate": "prostate_mpmri_dicom"}
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
# What dcm2niix writes and a scan leaves out, each with its reason.
LEFT_OUT = {
    "dicom2nifti/generic/rgb": "colour",
    "dcm_qa_xa30": "colour",  # its colour map of directions; the other three series are compared
    "dcm_qa_philips": "gap",  # 40 of 99 files: a repetition of 2 of 3 slices is no volume
}


def stacks_below(folder: Path):
    """Every stack below a folder with its voxels, and the codes of what was left out."""
    by_study, lost = defaultdict(dict), Counter()
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for number, path in enumerate(files):
        try:
            header = read_header(path, number)
        except Unusable as error:
            lost[error.code] += 1
            continue
        by_study[header.study].setdefault(header.instance or number, header)
    stacks_with_voxels = []
    for headers in by_study.values():
        stacks, left = stacks_of((h.series, frame) for h in headers.values() for frame in h.frames)
        lost.update(unused.code for unused in left)
        stacks_with_voxels += [(stack, volume_of(stack, dict(enumerate(files)))) for stack in stacks]
    return stacks_with_voxels, lost


def converted(folder: Path, out: Path) -> list[nibabel.Nifti1Image]:
    """What dcm2niix makes of a folder, colour left out."""
    subprocess.run(
        ["dcm2niix", "-b", "n", "-z", "n", "-m", "n", "-f", "%s_%p", "-o", out, folder],
        check=True,
        capture_output=True,
    )
    images = [nibabel.load(p) for p in sorted(out.glob("*.nii"))]
    return [image for image in images if not image.get_data_dtype().names]


def agreement(stack, array, image) -> tuple[float, float, float] | None:
    """Largest distance in mm of a voxel's place, of a direction, and of an intensity over the largest; None where shapes differ."""
    theirs = np.asarray(image.dataobj, float)
    ours, theirs = (a if a.ndim == 4 else a[..., None] for a in (array.astype(float), theirs))
    affine = FLIP @ image.affine
    between = np.linalg.inv(affine) @ stack.affine
    turn = np.round(between[:3, :3])
    corners = np.array([[0, 0, 0], *np.diag(np.array(ours.shape[:3]) - 1)]).T
    index = np.indices(ours.shape[:3]).reshape(3, -1)
    at = (turn @ index + np.round(between[:3, 3:])).astype(int)
    if not (
        np.abs(np.linalg.det(turn)) == 1
        and (at >= 0).all()
        and (at < np.array(theirs.shape[:3])[:, None]).all()
    ):
        return None
    place = stack.affine[:3, :3] @ corners + stack.affine[:3, 3:]
    other = affine[:3, :3] @ (turn @ corners + np.round(between[:3, 3:])) + affine[:3, 3:]
    direction = np.abs(
        stack.steps / np.linalg.norm(stack.steps, axis=0)
        - (affine[:3, :3] @ turn) / np.linalg.norm(affine[:3, :3] @ turn, axis=0)
    ).max()
    moved = theirs[at[0], at[1], at[2]].reshape(*ours.shape[:3], -1)
    top = np.abs(moved).max() + 1e-9
    worst = (
        max(
            min(np.abs(ours[..., p] - moved[..., q]).max() for p in range(ours.shape[3]))
            for q in range(moved.shape[3])
        )
        / top
    )
    return float(np.abs(place - other).max()), float(direction), float(worst)


FOLDERS = [
    "dcm_qa_deident", "dcm_qa_enh/Philips", "dcm_qa_enh/Siemens", "dcm_qa_ge", "dcm_qa_nih", "dcm_qa_toshiba", "dcm_qa_uih", "dcm_qa_xa30",
    "dicom2nifti/failing/slicecount", "dicom2nifti/failing/sliceorientation", "dicom2nifti/ge/anatomical", "dicom2nifti/ge/dti",
    "dicom2nifti/generic/anatomical", "dicom2nifti/generic/compressed_j2k", "dicom2nifti/generic/compressed_jpeg", "dicom2nifti/generic/compressed_rle",
    "dicom2nifti/hitachi/anatomical", "dicom2nifti/hyperfine/anatomical", "dicom2nifti/philips/anatomical", "dicom2nifti/philips/dti",
    "dicom2nifti/philips_enhanced/anatomical", "dicom2nifti/philips_enhanced/dti", "dicom2nifti/siemens/anatomical",
    "dicom2nifti/siemens/dti_classic", "dicom2nifti/siemens_multiframe/anatomical",
]  # fmt: skip


@pytest.mark.needs("dcm2niix")
@pytest.mark.parametrize("folder", FOLDERS)
def test_each_volume_is_dcm2niix_s(folder, real_data, tmp_path):
    images = converted(real_data / "dicom_zoo" / folder, tmp_path)
    stacks, _ = stacks_below(real_data / "dicom_zoo" / folder)
    assert images
    assert len(stacks) == len(images)
    for image in images:
        found = [a for a in (agreement(stack, array, image) for stack, array in stacks) if a]
        place, direction, intensity = min(found, key=lambda a: a[2])
        assert place < 0.01
        assert direction < 1e-4
        # Philips' field map is scaled in single precision by dcm2niix; all else is equal.
        assert intensity < (2e-5 if folder == "dcm_qa_enh/Philips" else 1e-6)


@pytest.mark.needs("dcm2niix")
@pytest.mark.parametrize("patient", ["ProstateX-0000", "ProstateX-0218"])
def test_a_real_pelvis_is_dcm2niix_s(patient, real_data, tmp_path):
    images = converted(real_data / "prostate_mpmri_dicom" / patient, tmp_path)
    stacks, lost = stacks_below(real_data / "prostate_mpmri_dicom" / patient)
    assert len(images) == len(stacks)
    assert not lost
    for image in images:
        place, direction, intensity = min(
            (a for a in (agreement(s, v, image) for s, v in stacks) if a), key=lambda a: a[2]
        )
        assert place < 0.01 and direction < 1e-4 and intensity == 0


def test_ct_is_in_hounsfield_units_where_its_headers_say(real_data):
    """Each slice is pydicom's own modality value; one that is missing is the mean of its neighbours."""
    from pydicom.pixels import apply_modality_lut

    folder = real_data / "dicom_zoo" / "dicom2nifti" / "failing" / "sliceincrement"
    ((stack, array),), lost = stacks_below(folder)
    assert not lost
    assert stack.facts["Modality"] == "CT"
    there = set()
    for path in folder.rglob("*.dcm"):
        data = pydicom.dcmread(path)
        slice_number = np.linalg.solve(stack.affine, [*data.ImagePositionPatient, 1])[2]
        k = round(float(slice_number))
        np.testing.assert_allclose(slice_number, k, atol=1e-3)
        wanted = apply_modality_lut(data.pixel_array, data)
        np.testing.assert_array_equal(array[:, :, k].T, wanted)
        there.add(k)
    (missing,) = set(range(array.shape[2])) - there
    np.testing.assert_allclose(
        array[:, :, missing], (array[:, :, missing - 1] + array[:, :, missing + 1]) / 2
    )


def test_what_is_left_out_of_the_zoo_is_a_short_list_with_reasons(real_data):
    for folder, why in LEFT_OUT.items():
        _, lost = stacks_below(real_data / "dicom_zoo" / folder)
        assert set(lost) == {{"colour": "screenshot", "gap": "gap"}[why]}


def test_bits_outside_bits_stored_are_taken_off_as_pydicom_does(real_data):
    """dcm2niix keeps them; PS3.5 8.1.1 says that they are no part of the sample. pydicom's masking is the oracle."""
    for path in sorted((real_data / "dicom_zoo" / "dcm_qa_12bit").glob("*.dcm")):
        header = read_header(path, 0)
        (stack,), _ = stacks_of((header.series, frame) for frame in header.frames)
        array = volume_of(stack, {0: path})
        with quiet():
            whole = pydicom.dcmread(path).pixel_array
        rows, columns = array.shape[1], array.shape[0]
        for k in range(array.shape[2]):
            top, left = k // 6 * rows, k % 6 * columns
            np.testing.assert_array_equal(array[:, :, k].T, whole[top : top + rows, left : left + columns])


def test_pydicom_s_own_mr_files_with_a_position_are_used():
    from pydicom.data import get_testdata_files

    used, refused = 0, Counter()
    for name in get_testdata_files():
        path = Path(name)
        try:
            with quiet():
                data = pydicom.dcmread(path)
                decoded = (
                    data.get("Modality") == "MR"
                    and "ImagePositionPatient" in data
                    and data.pixel_array is not None
                )
        except Exception:
            continue
        if not decoded:
            continue
        try:
            header = read_header(path, 0)
            stacks, _ = stacks_of((header.series, frame) for frame in header.frames)
            volume_of(stacks[0], {0: path})
            used += 1
        except Unusable as error:
            refused[error.code] += 1
    assert used >= 7
    assert set(refused) <= {"localizer", "derived", "screenshot"}


def test_every_transfer_syntax_gives_the_samples_that_were_encoded(tmp_path):
    """RLE, JPEG-LS, JPEG 2000, JPEG lossless, deflated and big endian, each encoded by the codec's own encoder."""
    from benchmarks.broken import encoded
    from mmvae.ingest.dicom.pixels import read_frames
    from mmvae.phantom.dicom import write_phantom_studies

    write_phantom_studies(1, 4, tmp_path / "phantom", jobs=1)
    path = next(
        p
        for p in sorted((tmp_path / "phantom").rglob("*.dcm"))
        if "NumberOfFrames" not in pydicom.dcmread(p, stop_before_pixels=True)
    )
    wanted = pydicom.dcmread(path).pixel_array
    assert wanted.std() > 0
    syntaxes = set()
    for path_of_syntax in encoded(path, tmp_path):
        header = read_header(path_of_syntax, 0)
        np.testing.assert_array_equal(read_frames(path_of_syntax, list(header.frames))[0], wanted)
        syntaxes.add(header.frames[0].pixels.syntax)
    assert len(syntaxes) == 6


def test_a_dicomdir_tells_how_many_of_its_files_are_missing(tmp_path):
    from pydicom.data import get_testdata_file

    path = Path(get_testdata_file("DICOMDIR"))
    with quiet():
        listed = sum("ReferencedFileID" in record for record in pydicom.dcmread(path).DirectoryRecordSequence)
    with pytest.raises(Unusable, match=f"lists {listed} files, 0 of them missing"):
        read_header(path, 0)
    shutil.copy(path, tmp_path / "DICOMDIR")
    with pytest.raises(Unusable, match=f"lists {listed} files, {listed} of them missing"):
        read_header(tmp_path / "DICOMDIR", 0)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory) -> dict[str, Path]:
    """Cohorts of the real sets, scanned by the command."""
    import os

    root = os.environ.get("MMVAE_DATA")
    if not root:
        return {}
    folder = tmp_path_factory.mktemp("scanned")
    for name, source in ROOTS.items():
        assert main(["scan", str(Path(root) / source), "--out", str(folder / name), "--jobs", "2"]) == 0
    return {name: folder / name for name in ROOTS}


def path_of(cohort: Path, file: str) -> str:
    known = json.loads((cohort.with_name(cohort.name + ".vault") / "identifiers.json").read_text())
    return known["files"][file.split("#")[0]]


def answers(scanned) -> list[tuple[str, str, str | None, float]]:
    """(series, kind by hand, kind by rule, confidence) of every series of the table."""
    rows = list(csv.DictReader(TABLE.open()))
    series = []
    for name, root in scanned.items():
        for case in Cohort.load(root).cases:
            for asset in case.assets:
                if asset.type != "volume":
                    continue
                known = json.loads((root.with_name(root.name + ".vault") / "identifiers.json").read_text())
                names = known["many"][asset.files["sha256"]] if isinstance(asset.files, dict) else asset.files
                # A file may be one of two equal ones, of which the table lists the other: any of the series' files tells it.
                places = [known["files"][f.split("#")[0]] for f in names]
                row = next(
                    (
                        r
                        for r in rows
                        if r["source"] == name and any(p.startswith(r["folder"]) for p in places)
                    ),
                    None,
                )
                assert row is not None, f"the table by hand does not list {places[0]}"
                series.append((row["folder"], row["kind"], asset.kind, asset.confidence))
    return series


def test_no_real_series_is_wrong_and_confident_and_most_are_answered(real_data, scanned):
    series = answers(scanned)
    assert [m for m in series if m[2] is not None and m[2] != m[1]] == []
    known = [m for m in series if m[1]]
    assert len({m[0] for m in series}) >= 40
    assert sum(m[2] is not None for m in known) >= 0.8 * len(known)


def test_two_real_cases_have_t2_dwi_and_contrast_with_exact_b_values(real_data, scanned):
    cases = Cohort.load(scanned["prostate"]).cases
    assert len(cases) == 2
    by_b = sorted(
        tuple(a.facts["DiffusionBValue"]) for c in cases for a in c.assets if "DiffusionBValue" in a.facts
    )
    assert by_b == [(0.0, 100.0, 400.0, 800.0), (50.0, 400.0, 800.0), (1000.0,), (1400.0,), (1600.0,)]
    (series,) = [a for c in cases for a in c.assets if a.kind == "contrast"]
    # The folders' names hold the times that the scanner gave them: 8.0, 16.4, 29.1, 45.9, 79.7, 147.1, 298.9 s.
    stated = np.array([8.0, 16.4, 29.1, 45.9, 79.7, 147.1, 298.9])
    assert np.abs(np.array(series.facts["PhaseTime_s"]) - (stated - stated[0])).max() < 6.0
    assert {"t2", "dwi"} <= {a.kind for a in cases[0].assets}
    assert {"t2", "dwi", "contrast"} <= {a.kind for a in cases[1].assets}


def test_every_file_is_accounted_for_once(real_data, scanned):
    for name, root in scanned.items():
        files = {
            p.relative_to(real_data / ROOTS[name]).as_posix()
            for p in (real_data / ROOTS[name]).rglob("*")
            if p.is_file()
        }
        accounted = Counter()
        for case in Cohort.load(root).cases:
            for asset in case.assets:
                if isinstance(asset.files, dict):
                    accounted["many"] += asset.files["n"]
                else:
                    accounted.update(asset.files)
        for line in (root / "skipped.jsonl").read_text().splitlines():
            accounted.update([json.loads(line)["file"]])
        many = accounted.pop("many", 0)
        named = {path_of(root, f) for f in accounted}
        assert named <= files
        assert len(named) + many == len(files)
        assert all(count == 1 for count in accounted.values())
