"""DICOM files of other modalities: a radiograph becomes a picture that the radiograph plugin reads, CT a volume of no kind."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from mmvae_radiograph import Radiograph
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import generate_uid

from mmvae.case import Answers
from mmvae.cli import main
from mmvae.cohort import Cohort
from mmvae.views import view_of

DX, CT, SR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"
STUDY = generate_uid()


def write(path: Path, storage: str, modality: str, samples: np.ndarray | None, **elements) -> None:
    """A DICOM file of 16-bit samples with these elements, by pydicom alone."""
    data, meta = Dataset(), FileMetaDataset()
    data.SOPClassUID, data.SOPInstanceUID = storage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, generate_uid()
    data.PatientID, data.PatientName, data.Modality = "P17", "Doe^Jane", modality
    if samples is not None:
        data.Rows, data.Columns = samples.shape[:2]
        data.SamplesPerPixel = 3 if samples.ndim == 3 else 1
        data.BitsAllocated, data.BitsStored, data.HighBit = (16, 12, 11) if samples.ndim == 2 else (8, 8, 7)
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.PixelData = samples.astype("<u2" if samples.ndim == 2 else "u1").tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, data.SOPInstanceUID
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset("", data, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)


def mark(rows: int, columns: int) -> np.ndarray:
    """A dark picture with a bright rectangle in its upper left corner."""
    samples = np.full((rows, columns), 100)
    samples[: rows // 5, : columns // 5] = 3000
    return samples


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    """One study: two views of a chest, one of them stored inverted; a mammogram, a CT, a report, a colour picture."""
    folder = tmp_path_factory.mktemp("pictures")
    source, rng = folder / "in", np.random.default_rng(0)
    write(source / "pa.dcm", DX, "DX", mark(50, 100), ImagerPixelSpacing=["0.5", "0.25"], ViewPosition="PA", ImageType=["DERIVED", "PRIMARY"], SeriesDescription="skeletal survey")  # fmt: skip
    write(source / "ll.dcm", DX, "DX", 4095 - mark(40, 60), PixelSpacing=["0.2", "0.3"], ImagerPixelSpacing=["9", "9"], ViewPosition="LL", PhotometricInterpretation="MONOCHROME1", RescaleSlope="2", RescaleIntercept="10")  # fmt: skip
    write(source / "mg.dcm", "1.2.840.10008.5.1.4.1.1.1.2", "MG", mark(30, 30), ViewPosition="Doe", ImageLaterality="R")  # fmt: skip
    series = generate_uid()
    for k in range(6):
        write(source / f"ct{k}.dcm", CT, "CT", rng.integers(0, 4000, (20, 24)), SeriesInstanceUID=series, RescaleSlope="1", RescaleIntercept="-1024",
              ImagePositionPatient=["-10", "-20", str(5 * k)], ImageOrientationPatient=["1", "0", "0", "0", "1", "0"], PixelSpacing=["2", "3"], EchoTime="90", RepetitionTime="3000")  # fmt: skip
    write(source / "colour.dcm", "1.2.840.10008.5.1.4.1.1.7", "OT", np.zeros((8, 8, 3)), PhotometricInterpretation="RGB", PlanarConfiguration=0)  # fmt: skip
    write(source / "us.dcm", "1.2.840.10008.5.1.4.1.1.6.1", "US", mark(20, 20))
    item = Dataset()
    item.ValueType, item.TextValue = "TEXT", "A nodule, seen by Jane Doe."
    write(source / "sr.dcm", SR, "SR", None, ContentSequence=[item])
    assert main(["scan", str(source), "--out", str(folder / "cohort"), "--jobs", "1"]) == 0
    return Cohort.load(folder / "cohort")


def picture(cohort: Cohort, view: str | None):
    (asset,) = [
        a for a in cohort.cases[0].assets if a.type == "image" and a.facts.get("ViewPosition") == view
    ]
    return asset, nibabel.load(cohort.root / asset.uri)


def test_a_radiograph_is_an_image_of_its_own_modality_and_pixel_size(cohort):
    asset, image = picture(cohort, "PA")
    assert (asset.kind, asset.facts["Modality"]) == ("radiograph", "DX")
    assert asset.confidence > 0.9
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0].T, mark(50, 100))
    np.testing.assert_allclose(image.header.get_zooms()[:2], (0.25, 0.5))  # columns are 0.25 mm apart


def test_an_inverted_radiograph_is_turned_back_and_scaled(cohort):
    _, image = picture(cohort, "LL")
    np.testing.assert_allclose(np.asarray(image.dataobj)[:, :, 0].T, 2 * mark(40, 60) + 10)
    np.testing.assert_allclose(
        image.header.get_zooms()[:2], (0.3, 0.2)
    )  # PixelSpacing before ImagerPixelSpacing


def test_a_view_that_no_list_holds_stays_in_the_header(cohort):
    asset, _ = picture(cohort, None)
    assert asset.facts["Modality"] == "MG"
    assert asset.facts["ImageLaterality"] == "R"
    assert "Doe" not in (cohort.root / "cases.jsonl").read_text()
    assert asset.facts["spacing_assumed"] is True
    assert cohort.card.assumed["radiograph"]["spacing_mm"] == [1.0, 1.0, 1.0]


def test_ct_is_a_volume_in_its_own_units_that_no_plugin_claims(cohort):
    (asset,) = [a for a in cohort.cases[0].assets if a.type == "volume"]
    assert asset.facts["Modality"] == "CT"
    assert asset.kind is None
    assert not {"EchoTime", "RepetitionTime", "described_as"} & set(asset.facts)
    voxels = np.asarray(nibabel.load(cohort.root / asset.uri).dataobj)
    assert voxels.shape == (24, 20, 6)
    assert voxels.min() < -900


def test_a_case_is_about_its_volume_rather_than_a_picture_without_a_place(cohort):
    # The middle of 24 columns of 3 mm, 20 rows of 2 mm and 6 slices of 5 mm.
    assert cohort.cases[0].frame_mm == (-10 + 11.5 * 3, -20 + 9.5 * 2, 2.5 * 5)


def test_what_is_no_image_of_a_patient_is_left_out_for_its_reason(cohort):
    lines = [json.loads(line) for line in (cohort.root / "skipped.jsonl").read_text().splitlines()]
    assert sorted(line["code"] for line in lines) == ["no_position", "not_image"]
    assert [a.type for a in cohort.cases[0].assets].count("text") == 1


def test_the_plugin_reads_and_shows_what_was_scanned(cohort, tmp_path):
    case, recipe = cohort.cases[0], Radiograph(size=40)
    view = view_of(case, cohort.root, "radiograph", recipe, Answers(), answer_role=False)
    assert recipe.present(view)
    observation = recipe.read(view)
    bright = observation.value[0, 0] * observation.mask[0, 0]
    place = (bright > bright.max() / 2).nonzero().float().mean(0)
    inside = observation.mask[0, 0].nonzero().float()
    assert (place < inside.mean(0)).all()  # the mark is in the upper left, whichever view was selected
    assert (
        main(["show", case.case_id, "--cohort", str(cohort.root), "--out", str(tmp_path / "page.html")]) == 0
    )
    assert "data:image/png" in (tmp_path / "page.html").read_text()


def test_the_series_of_a_file_that_was_left_out_is_what_the_vault_maps(cohort):
    import pydicom

    vault = json.loads((cohort.root.with_name("cohort.vault") / "identifiers.json").read_text())
    for line in (cohort.root / "skipped.jsonl").read_text().splitlines():
        entry = json.loads(line)
        path = cohort.root.with_name("in") / vault["files"][entry["file"]]
        uid = str(pydicom.dcmread(path).SeriesInstanceUID)
        assert vault["series"][entry["series"]] == uid
        assert uid not in line
