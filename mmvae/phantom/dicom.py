"""Writes digital patients as DICOM studies in the style of four vendors, with records, reports and lesion points beside them."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import yaml
from pydicom.charset import default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mmvae.atomic import new_folder
from mmvae.errors import InputError
from mmvae.ingest.progress import Progress, no_progress
from mmvae.phantom import enhanced
from mmvae.phantom.cohort import FIELDS, RELEVANCE, in_processes, labels_of, pseudonym, words_about
from mmvae.phantom.enhanced import ENHANCED_MR, item
from mmvae.phantom.patient import Patient, population
from mmvae.phantom.scanner import Examination, Series, examine

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
VENDOR = {
    "siemens": "SIEMENS",
    "ge": "GE MEDICAL SYSTEMS",
    "philips": "Philips Medical Systems",
    "canon": "CANON_MEC",
}
# English and French descriptions by type of series; they never depend on what the patient has.
DESCRIPTIONS = {
    "t1": ("Ax T1 TSE", "AX T1", "T1 axial"), "t1_fs": ("Ax T1 FS", "AX T1 FAT SAT", "T1 axial sat graisse"),
    "t2": ("Ax T2 TSE", "T2 pelvis", "T2 axial"), "dwi": ("Ax DWI", "DIFFUSION", "Diffusion axiale"),
    "contrast": ("Ax dyn post contrast", "DYN GD", "Dynamique gadolinium"),
}  # fmt: skip
LABELS = ("histology", "orads", "group")
# Elements that differ between the slices of a volume, ascending; all others are encoded once.
SLICE_TAGS = tuple(
    tag
    for keyword in ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "PixelData")
    if (tag := tag_for_keyword(keyword)) is not None
)


def uid(*parts: object) -> UID:
    """A UID under 2.25 (PS3.5 B.2) that is the hash of its parts."""
    return UID(
        "2.25." + str(int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:16]))
    )


def _common(patient: Patient, seed: int, exam: Examination) -> Dataset:
    """The elements that all files of a study share: patient, study and equipment modules with every type 2 element."""
    name = pseudonym("p", seed, patient.number)
    data = item(
        PatientName=f"Phantom^{name}", PatientID=name, PatientBirthDate="", PatientSex="F",
        StudyInstanceUID=uid("study", seed, patient.number), StudyDate="20200101", StudyTime="090000",
        AccessionNumber=pseudonym("a", seed, patient.number), StudyID="1", ReferringPhysicianName="",
        Manufacturer=VENDOR[exam.scanner], ManufacturerModelName=exam.scanner, DeviceSerialNumber="0", SoftwareVersions="1",
        FrameOfReferenceUID=uid("frame", seed, patient.number), PositionReferenceIndicator="", Modality="MR", PatientPosition="HFS",
        BodyPartExamined="PELVIS",
    )  # fmt: skip
    if "age_years" in patient.record:
        data.PatientAge = f"{int(patient.record['age_years']):03d}Y"
    if "weight_kg" in patient.record:
        data.PatientWeight = str(patient.record["weight_kg"])
    return data


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02d}{whole // 60 % 60:02d}{whole % 60:02d}.{round((seconds - whole) * 1000):03d}"


class _Study:
    """Writes one study; each series gets a number, a UID and a start."""

    def __init__(self, patient: Patient, seed: int, exam: Examination, folder: Path):
        self.patient, self.seed, self.exam, self.folder = patient, seed, exam, folder
        self.common = _common(patient, seed, exam)
        self.rng = np.random.default_rng([patient.rng_seed % 2**32, 5])
        self.language = int(self.rng.integers(3))
        self.number, self.start = 0, 9 * 3600 + float(self.rng.integers(0, 3600))

    def write(self, series: Series) -> None:
        """Writes a series in its vendor's layout: one series per phase (Siemens), one enhanced object (a Philips T2), else one series."""
        times = series.facts.get("PhaseTime_s", [0.0] * len(series.volumes))
        if self.exam.scanner == "philips" and series.role == "t2":
            self._enhanced(series)
        elif self.exam.scanner == "siemens" and series.role == "contrast":
            for phase, volume in enumerate(series.volumes):
                self._classic(series, [volume], [times[phase]], phase)
        else:
            self._classic(series, list(series.volumes), times, 0)
        self.start += times[-1] + 120

    def _head(self, series: Series) -> Dataset:
        self.number += 1
        data = Dataset()
        data.update(self.common)
        data.SeriesInstanceUID = uid("series", self.seed, self.patient.number, self.exam.scanner, self.number)
        data.SeriesNumber, data.SeriesDescription = str(self.number), DESCRIPTIONS[series.role][self.language]
        data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20200101"
        data.SeriesTime = _clock(self.start)
        data.MagneticFieldStrength = f"{series.facts['MagneticFieldStrength']:g}"
        if series.facts["contrast_agent"]:
            data.ContrastBolusAgent = "Gadobutrol"
        return data

    def _plane(self, data: Dataset, series: Series) -> None:
        """Sets acquisition and geometry of a series of single-frame images."""
        facts, steps = series.facts, np.linalg.norm(series.affine[:3, :3], axis=0)
        planar, thickness = facts["ScanningSequence"] == "EP", f"{steps[2]:.4g}"
        data.update(
            item(
                SOPClassUID=MR_IMAGE, ImageType=["ORIGINAL", "PRIMARY", "M"],
                ScanningSequence=["EP", "SE"] if planar else facts["ScanningSequence"], SequenceVariant="SK",
                MRAcquisitionType="3D" if series.role == "contrast" else "2D", ScanOptions="FS" if facts["fat_saturated"] else "PFP",
                RepetitionTime=f"{facts['RepetitionTime']:g}", EchoTime=f"{facts['EchoTime']:g}",
                FlipAngle=f"{facts.get('FlipAngle', 90):g}", EchoTrainLength=str(facts.get("EchoTrainLength", 1)),
                SliceThickness=thickness, SpacingBetweenSlices=thickness, PixelSpacing=[f"{steps[1]:.6g}", f"{steps[0]:.6g}"],
                ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
            )
        )  # fmt: skip

    def _samples(self, data: Dataset, volume: np.ndarray) -> None:
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = volume.shape[-2:]
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = int(self.exam.scanner == "ge")
        if self.exam.scanner == "philips":
            block = data.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0E, "FL", 0.0125)

    def _b_value(self, data: Dataset, b: float) -> None:
        """Sets the b-value in the element that this vendor uses (DICOM.md)."""
        scanner = self.exam.scanner
        if scanner == "siemens":
            data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", str(int(b)))
            data.SequenceName = f"*ep_b{int(b)}t"
        elif scanner == "ge":
            data.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(
                0x39, "IS", [str(1000000000 + int(b)), "8", "0", "0"]
            )
        elif scanner == "canon":
            if b:
                data.ImageComments = f"b={int(b)}(0.577,0.577,0.577)"
            elif "ImageComments" in data:
                del data.ImageComments
        else:
            data.DiffusionBValue = float(b)

    def _classic(
        self, series: Series, volumes: Sequence[np.ndarray], times: Sequence[float], first: int
    ) -> None:
        """Writes one single-frame image per slice of each volume.

        Args:
            series: A series of the examination.
            volumes: The volumes that are written as one DICOM series.
            times: Seconds after the series' start, one per volume.
            first: Number of the first volume in the series, from 0.
        """
        data = self._head(series)
        self._plane(data, series)
        self._samples(data, volumes[0])
        folder = self.folder / f"{self.number:03d}"
        folder.mkdir(parents=True)
        b_values, count = series.facts.get("DiffusionBValue"), 0
        for repeat, volume in enumerate(volumes):
            data.AcquisitionNumber = str(1 + first + repeat)
            after_s = times[repeat] if b_values is None else repeat
            data.AcquisitionTime = data.ContentTime = _clock(self.start + after_s)
            if b_values is not None:
                self._b_value(data, b_values[repeat])
            elif len(volumes) > 1:
                data.TemporalPositionIdentifier = str(repeat + 1)
                data.NumberOfTemporalPositions = str(len(volumes))
            self._slices(data, volume, series.affine, folder, count)
            count += len(volume)

    def _slices(
        self, data: Dataset, volume: np.ndarray, affine: np.ndarray, folder: Path, count: int
    ) -> None:
        """Writes the images of one volume, numbered from `count` + 1; elements that they share are encoded once."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.ImplementationClassUID = UID(MR_IMAGE), uid("mmvae")
        implicit = self.exam.scanner == "ge"
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        sample_type = "<i2" if data.PixelRepresentation else "<u2"
        shared = [
            _encoded(data[after:before], meta.TransferSyntaxUID)
            for after, before in pairwise((0, *SLICE_TAGS, 2**32 - 1))
        ]
        for k, plane in enumerate(volume):
            number, position = count + k + 1, affine[:3, 3] + k * affine[:3, 2]
            instance = uid("image", data.SeriesInstanceUID, number)
            own = item(
                InstanceNumber=str(number), SOPInstanceUID=instance, ImagePositionPatient=[f"{v:.6g}" for v in position],
                SliceLocation=f"{position[2]:.6g}",
            )  # fmt: skip
            own.add_new("PixelData", "OW", plane.astype(sample_type).tobytes())
            meta.MediaStorageSOPInstanceUID = instance
            each = [_encoded(own[tag : tag + 1], meta.TransferSyntaxUID) for tag in SLICE_TAGS]
            encoded = b"".join(chain.from_iterable(zip(shared, [*each, b""])))
            _save(encoded, meta, folder / f"{number:04d}.dcm")

    def _enhanced(self, series: Series) -> None:
        """Writes one multi-frame object (PS3.3 A.36.2) with the functional groups that its definition requires."""
        data = self._head(series)
        (volume,) = series.volumes
        self._samples(data, volume)
        data.AcquisitionDateTime = "20200101" + _clock(self.start)
        data.ContentTime = _clock(self.start)
        enhanced.describe(data, series, uid("image", data.SeriesInstanceUID, 1))
        data.SharedFunctionalGroupsSequence = Items([enhanced.shared_groups(series)])
        data.PerFrameFunctionalGroupsSequence = Items(enhanced.frame_groups(series, data.AcquisitionDateTime))
        enhanced.add_dimensions(data, uid("dimensions", data.SeriesInstanceUID))
        data.add_new("PixelData", "OW", volume.astype("<u2").tobytes())
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(ENHANCED_MR), data.SOPInstanceUID
        meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, uid("mmvae")
        folder = self.folder / f"{self.number:03d}"
        folder.mkdir(parents=True)
        _save(_encoded(data, meta.TransferSyntaxUID), meta, folder / "0001.dcm")


def _encoded(data: Dataset, syntax: UID) -> bytes:
    """The elements encoded in a transfer syntax."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax.is_implicit_VR, True
    data.set_original_encoding(syntax.is_implicit_VR, True, default_encoding)
    write_dataset(stream, data)
    return stream.getvalue()


def _save(encoded: bytes, meta: FileMetaDataset, path: Path) -> None:
    """Preamble, file meta information and data set, in the order of PS3.10 section 7.1."""
    stream = DicomBytesIO()
    stream.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(stream, meta, enforce_standard=True)
    stream.write(encoded)
    with path.open("wb", buffering=0) as file:
        file.write(stream.getvalue())


def write_study(patient: Patient, seed: int, root: Path, protocol: str) -> Mapping:
    """Writes one patient's study folder and report, and returns her row of the tables.

    Args:
        patient: Whose study it is.
        seed: Of the population.
        root: Folder that holds `studies/` and `reports/`.
        protocol: `quick` or `full` examination.
    """
    exam = examine(patient, protocol)
    name = pseudonym("p", seed, patient.number)
    study = _Study(patient, seed, exam, root / "studies" / name)
    for series in exam.series:
        study.write(series)
    terms, text = words_about(patient, exam.side)
    if text is not None:
        (root / "reports" / f"{study.common.AccessionNumber}.txt").write_text(text)
    return {
        "PatientID": name, **patient.record, **labels_of(patient), "terms": ";".join(terms),
        "x_mm": exam.lesion_mm[0], "y_mm": exam.lesion_mm[1], "z_mm": exam.lesion_mm[2],
    }  # fmt: skip


def write_phantom_studies(
    cases: int, seed: int, out: Path, jobs: int = 1, prevalence: str = "balanced", protocol: str = "quick", progress: Progress = no_progress
) -> None:  # fmt: skip
    """Writes `studies/`, `records.csv`, `reports/`, `lesions.csv` and `map.yaml` to `out`, by a rename at the end (FORMATS: Commands).

    Args:
        cases: Number of patients.
        seed: Seed of the population.
        out: Path of the new folder.
        jobs: Number of processes that write.
        prevalence: `balanced` or `clinical` frequencies of the histologies.
        protocol: `quick` or `full` examinations.
        progress: Wraps the iterator of finished patients.
    """
    if cases < 1:
        raise InputError(f"cases is {cases}; expected at least 1", "cases")
    with new_folder(out) as folder:
        for name in ("studies", "reports"):
            (folder / name).mkdir()
        write = partial(write_study, seed=seed, root=folder, protocol=protocol)
        rows = in_processes(write, population(cases, seed, prevalence), jobs, progress)
        columns = ["PatientID", *FIELDS, *LABELS, "terms"]
        for name, header in (("records.csv", columns), ("lesions.csv", ["case", "x_mm", "y_mm", "z_mm"])):
            with (folder / name).open("w", newline="") as stream:
                table = csv.DictWriter(stream, header, extrasaction="ignore", restval="")
                table.writeheader()
                table.writerows({**row, "case": row["PatientID"]} for row in rows)
        (folder / "map.yaml").write_text(yaml.safe_dump(_map(seed), sort_keys=False))


def _map(seed: int) -> dict:
    """The MAP file that explains the tables' columns."""
    record = {
        name: {"column": name, **({"unit": field.unit} if field.type == "number" else {"type": "category"})}
        for name, field in FIELDS.items()
    }
    return {
        "name": f"adnexal phantom, seed {seed}", "key": "PatientID", "record": record,
        "labels": {name: name for name in LABELS}, "label_source": dict.fromkeys(LABELS, "simulated"), "terms": ["terms"],
        "reference": ["t2", "t1", "contrast", "dwi"],
        "relevance": [{"gain": level.gain, "same": list(level.same)} for level in RELEVANCE],
        "answers": {"kinds": ["report"], "terms": True},
    }  # fmt: skip
