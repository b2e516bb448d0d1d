"""Writes digital patients as a cohort folder of NIfTI volumes, reports, records, terms and labels."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mmvae.atomic import new_folder
from mmvae.case import Answers, Asset, Card, Case, Field, Lesion, Relevance
from mmvae.cohort import write_cohort
from mmvae.errors import InputError
from mmvae.ingest.nifti import write_nifti
from mmvae.ingest.progress import Progress, no_progress
from mmvae.phantom.patient import Patient, parameters, phantom_hash, population
from mmvae.phantom.scanner import KIND, examine
from mmvae.phantom.words import TERMS, malignant, reading, report_of, terms_of
from mmvae.splits import Split, Splits

FIELDS = {
    "age_years": Field("number", "years"),
    "menopause": Field("category", values=("post", "pre")),
    "ca125_u_ml": Field("number", "U/mL"),
    "weight_kg": Field("number", "kg"),
    "height_m": Field("number", "m"),
    "parity": Field("number", "births"),
    "pain": Field("category", values=("no", "yes")),
}
RELEVANCE = (
    Relevance(3, ("histology", "orads")),
    Relevance(2, ("histology",)),
    Relevance(1, ("orads",)),
    Relevance(1, ("group",)),
)


def pseudonym(prefix: str, seed: int, number: int) -> str:
    """An identifier that reveals nothing: a hash of seed and number."""
    return prefix + hashlib.sha256(f"phantom {prefix} {seed} {number}".encode()).hexdigest()[:10]


def labels_of(patient: Patient) -> dict[str, str | int]:
    """Histology, O-RADS score and, for gain 1, the group: malignant, or benign with solid tissue; other patients have no group."""
    labels = {"histology": patient.histology, "orads": patient.orads}
    if malignant(patient.histology) == "malignant":
        return labels | {"group": "malignant"}
    solid = patient.findings.solid != "none" or patient.findings.papillae != "none"
    return labels | ({"group": "benign with solid tissue"} if solid else {})


def words_about(patient: Patient, side: str) -> tuple[tuple[str, ...], str | None]:
    """A patient's terms and report, None if missing; the same whether the patient is written as NIfTI or DICOM."""
    rng = np.random.default_rng([patient.rng_seed % 2**32, 4])
    findings = reading(patient, rng)
    terms = tuple(terms_of(findings, rng))
    text = report_of(findings, side, rng) + "\n"
    return terms, text if rng.random() >= parameters()["missing"]["report"] else None


def in_processes(write: Callable, patients: Sequence[Patient], jobs: int, progress: Callable) -> list:
    """`write(patient)` of each patient, in their order.

    Args:
        write: A function that a new process can import.
        patients: Its arguments.
        jobs: Number of processes; 1 runs in this one.
        progress: Wraps the iterator of results.
    """
    if jobs == 1:
        return list(progress(map(write, patients), len(patients)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(progress(pool.map(write, patients, chunksize=4), len(patients)))


def write_case(patient: Patient, seed: int, root: Path, protocol: str, scanner: str | None = None) -> Case:
    """Writes one patient's folder in a cohort, and returns the case.

    Args:
        patient: Whose case it is.
        seed: Of the population.
        root: The cohort's folder.
        protocol: `quick` or `full` examination.
        scanner: None is the one that she was drawn for.
    """
    case_id = pseudonym("c", seed, patient.number)
    folder = root / "cases" / case_id
    folder.mkdir(parents=True)
    exam = examine(patient, protocol, scanner)
    assets = []
    for number, series in enumerate(exam.series):
        volume = np.moveaxis(series.volumes, 0, -1).transpose(2, 1, 0, 3)  # (x, y, z, n)
        volume = volume[..., 0] if volume.shape[-1] == 1 else volume
        uri = f"cases/{case_id}/{number}.nii.gz"
        digest = write_nifti(root / uri, volume, series.affine)
        facts = {**series.facts, "voxels": int(volume.size)}
        assets.append(Asset("volume", uri, digest, KIND[series.role], 1.0, None, facts, ()))
    terms, text = words_about(patient, exam.side)
    if text is not None:
        uri = f"cases/{case_id}/report.txt"
        (root / uri).write_text(text)
        assets.append(Asset("text", uri, hashlib.sha256(text.encode()).hexdigest(), "report", 1.0))
    labels = labels_of(patient)
    return Case(
        case_id,
        pseudonym("p", seed, patient.number),
        tuple(assets),
        patient.record,
        terms,
        Lesion(exam.lesion_mm),
        exam.lesion_mm,
        "lesion",
        labels,
        {name: "simulated" for name in labels},
    )


def write_phantom_cohort(
    cases: int, seed: int, out: Path, splits: Sequence[int] | None = None, jobs: int = 1,
    prevalence: str = "balanced", protocol: str = "quick", progress: Progress = no_progress,
) -> None:  # fmt: skip
    """Writes a phantom cohort to `out`, which appears by a rename at the end; the same seed gives the same bytes for any `jobs`.

    Args:
        cases: Number of patients.
        seed: Seed of the population.
        out: Path of the new folder.
        splits: Numbers of training, validation and test patients, taken in the order of their numbers; 60/15/25 % by default.
        jobs: Number of processes that write.
        prevalence: `balanced` or `clinical` frequencies of the histologies.
        protocol: `quick` or `full` examinations.
        progress: Wraps the iterator of finished cases, e.g. in a bar.
    """
    if cases < 1:
        raise InputError(f"cases is {cases}; expected at least 1", "cases")
    split = _numbered_split(cases, seed, splits)
    with new_folder(out) as folder:
        write = partial(write_case, seed=seed, root=folder, protocol=protocol)
        written = in_processes(write, population(cases, seed, prevalence), jobs, progress)
        card = Card(
            name=f"adnexal phantom, seed {seed}",
            source="phantom",
            counts={"cases": cases, "patients": cases},
            fields=FIELDS,
            terms=TERMS,
            targets=("histology", "orads", "group"),
            answers=Answers(kinds=("report",), terms=True),
            relevance=RELEVANCE,
            phantom=phantom_hash(),
        )
        write_cohort(folder, card, written, Splits((split,), seed=seed))
        (folder / "skipped.jsonl").write_text("")


def _numbered_split(cases: int, seed: int, sizes: Sequence[int] | None) -> Split:
    """Splits with patients in the order of their numbers; 60/15/25 % unless sizes are given."""
    if not sizes:
        train, validation = round(0.6 * cases), round(0.15 * cases)
        sizes = (train, validation, cases - train - validation)
    if len(sizes) != 3 or sum(sizes) > cases or min(sizes) < 0:
        raise InputError(
            f"splits are {','.join(map(str, sizes))}; expected three numbers with a sum of at most {cases}, the cases",
            "splits",
        )
    names = [pseudonym("p", seed, number) for number in range(cases)]
    a, b = sizes[0], sizes[0] + sizes[1]
    return Split(tuple(names[:a]), tuple(names[a:b]), tuple(names[b : b + sizes[2]]))
