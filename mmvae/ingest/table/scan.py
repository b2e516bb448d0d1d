"""Scans a source described by a table into a cohort folder: each row is a case, and files that no row names are listed."""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mmvae.atomic import new_folder
from mmvae.case import Asset, Case, Lesion, PointMM
from mmvae.cohort import write_cohort
from mmvae.errors import InputError, NoCases
from mmvae.identity.vault import Vault, vault_path
from mmvae.ingest.nifti import write_nifti
from mmvae.ingest.notes import write_notes
from mmvae.ingest.point import centre_of, frame_of
from mmvae.ingest.progress import Progress, no_progress
from mmvae.ingest.skipped import SkippedFile, Unusable, count_by_code, write_skipped
from mmvae.ingest.summary import ScanSummary
from mmvae.ingest.table.fields import filled
from mmvae.ingest.table.files import read_signal, read_volume
from mmvae.ingest.table.map import AssetRule, Map, read_map, read_table, value_of
from mmvae.ingest.table.rows import Row, card_of, record_columns, with_row
from mmvae.ingest.texts import Cleaning, read_text, write_text_asset
from mmvae.splits import draw_splits


@dataclass(frozen=True)
class CaseFile:
    """One file of a case: its path, the array in it, its F and its rule."""

    path: Path
    member: str | None
    name: str
    rule: AssetRule


@dataclass(frozen=True)
class CaseTask:
    """All that a worker needs to write one case."""

    case_id: str
    patient: str
    files: tuple[CaseFile, ...]
    cleaning: Cleaning
    row: Row
    root: Path
    lesion: PointMM | None
    reference: tuple[str, ...]


def scan_table(
    source: Path, out: Path, map_path: Path, records: Path, splits: Sequence[int] | None = None, folds: int | None = None,
    split_seed: int = 0, jobs: int = 1, progress: Progress = no_progress,
) -> ScanSummary:  # fmt: skip
    """Scans a source described by a table into a cohort at `out`, which appears whole, by a rename at the end.

    Args:
        source: Folder of the files that the MAP names.
        out: Path of the new cohort; its vault is placed beside it.
        map_path: The MAP.
        records: The table.
        splits: Numbers of training, validation and test patients; 60/15/25 % by default.
        folds: Number of folds, in place of splits.
        split_seed: Seed of the patients' order.
        jobs: Number of processes that write.
        progress: Wraps the iterator over written cases.

    Raises:
        InputError: if source, MAP and table do not fit together; nothing is left behind.
        NoCases: if no row makes a case.
    """
    _refuse_no_source(source)
    mapping = read_map(map_path)
    if not mapping.assets and mapping.record is None and not mapping.every_other_column:
        raise InputError(
            f"{map_path.name}: the fields 'assets' and 'record' are missing; a source that is not DICOM needs one of them", "map"
        )  # fmt: skip
    table = read_table(records, mapping.columns(), "records")
    vault = Vault.open(vault_path(out), create=True)
    with new_folder(out) as folder:
        tasks = _tasks(source, folder, mapping, table, vault)
        results = _write_all(tasks, jobs, progress)
        skipped = [item for _, items in results for item in items]
        named = {f.path for task in tasks for f in task.files} | {records.resolve(), map_path.resolve()}
        skipped += _unmapped(source, named, vault)
        columns = record_columns(mapping, table)
        cases = [with_row(case, task.row, mapping, columns) for (case, _), task in zip(results, tasks)]
        cases = [case for case in cases if case.assets or case.record]
        if not cases:
            raise NoCases(
                f"the scan found no case (left out: {count_by_code(skipped)}); expected files below the source that the MAP's file "
                "templates name, or a record",
                "map",
            )
        first = {task.patient: min((f.path.as_posix() for f in task.files), default="~") for task in reversed(tasks)}  # fmt: skip
        patients = sorted({case.patient for case in cases}, key=lambda p: (first[p], p))
        nifti = any(r.file.split("#")[0].endswith((".nii", ".nii.gz")) for r in mapping.assets)
        card = card_of(mapping, cases, columns, "nifti" if nifti else "table")
        write_cohort(folder, card, cases, draw_splits(patients, splits, folds, split_seed))
        write_skipped(folder, skipped)
        write_notes(folder, ())
        vault.save()
    return ScanSummary(len(cases), tuple(skipped), (), ())


def _refuse_no_source(source: Path) -> None:
    if not source.is_dir():
        raise InputError(f"{source.name!r} is not a folder", "source")
    if not any(source.iterdir()):
        raise InputError(f"{source.name!r} is empty; expected files that the MAP names", "source")


def _tasks(source: Path, root: Path, mapping: Map, table: Sequence[Row], vault: Vault) -> list[CaseTask]:
    """The task of writing each row's case."""
    tasks, line_of = [], {}
    for line, row in enumerate(table, 2):
        case = filled(mapping.case, row)
        if not case:
            raise InputError(
                f"the table's line {line} is empty in {mapping.key!r}; a case needs a name", "records"
            )
        if case in line_of:
            raise InputError(
                f"lines {line_of[case]} and {line} of the table make the same case; one row is one case. Remove one, or widen `case`.",
                "records",
            )
        line_of[case] = line
        patient = filled(mapping.patient, row)
        files = tuple(_files(source, mapping.assets, row, line, vault))
        cleaning = Cleaning((case, patient, row.get(mapping.key) or ""), vault.shift_days(patient))
        tasks.append(
            CaseTask(vault.case(case), vault.patient(patient), files, cleaning, row, root, _lesion(mapping, row), mapping.reference)
        )  # fmt: skip
    return tasks


def _files(
    source: Path, rules: Sequence[AssetRule], row: Row, line: int, vault: Vault
) -> Iterable[CaseFile]:  # fmt: skip
    """The files that a row names and the source holds."""
    for rule in rules:
        name, _, member = filled(rule.file, row).partition("#")
        path = source / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(
                f"the table's line {line} makes a file name that leaves the source; expected one below it", "records"
            )  # fmt: skip
        if not path.is_file() or (member and not _has_member(path, member)):
            continue  # a sequence that this patient does not have
        relative = path.relative_to(source).as_posix() + (f"#{member}" if member else "")
        yield CaseFile(path, member or None, vault.file(relative), rule)


def _has_member(path: Path, member: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{member}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # the worker opens it and says what is wrong


def _lesion(mapping: Map, row: Row) -> PointMM | None:
    """The lesion's point, if the row has all three coordinates."""
    if not mapping.lesion:
        return None
    values = [value_of(row.get(mapping.lesion.get(axis, ""), "")) for axis in ("x_mm", "y_mm", "z_mm")]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _unmapped(source: Path, named: set[Path], vault: Vault) -> list[SkippedFile]:
    """Every file below the source that no row and no asset of the MAP names."""
    reason = "no row of the table and no asset of the MAP names this file"
    return [
        SkippedFile(vault.file(path.relative_to(source).as_posix()), None, "not_mapped", reason)
        for path in sorted(p for p in source.rglob("*") if p.is_file())
        if path not in named and path.resolve() not in named
    ]


def _write_all(
    tasks: Sequence[CaseTask], jobs: int, progress: Progress
) -> list[tuple[Case, list[SkippedFile]]]:  # fmt: skip
    if jobs == 1:
        return list(progress(map(write_case, tasks), len(tasks)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return list(progress(pool.map(write_case, tasks), len(tasks)))


def write_case(task: CaseTask) -> tuple[Case, list[SkippedFile]]:
    """Writes one case's folder; returns the case without what its row says, and the files that had to be left out."""
    folder = task.root / "cases" / task.case_id
    folder.mkdir(parents=True)
    assets: list[Asset] = []
    skipped: list[SkippedFile] = []
    centres: dict[str, PointMM] = {}
    for number, file in enumerate(task.files):
        try:
            asset, centre = _write_asset(task, f"cases/{task.case_id}/{number}", file)
        except Unusable as error:
            skipped.append(SkippedFile(file.name, None, error.code, error.reason))
            continue
        assets.append(asset)
        if centre is not None:
            centres[asset.uri] = centre
    if not assets:
        folder.rmdir()
    frame, frame_from = frame_of(task.lesion, assets, centres, task.reference)
    lesion = Lesion(task.lesion) if task.lesion else None
    case = Case(
        task.case_id, task.patient, tuple(assets), lesion=lesion, frame_mm=frame, frame_from=frame_from
    )
    return case, skipped


def _write_asset(task: CaseTask, stem: str, file: CaseFile) -> tuple[Asset, PointMM | None]:
    """Writes one file as an asset; returns it and its centre, if it has a position."""
    if file.path.suffix == ".txt":
        text = read_text(file.path)
        return write_text_asset(
            task.root, f"{stem}.txt", text, task.cleaning, (file.name,), file.rule.kind
        ), None
    if file.rule.signal:
        return _signal(task.root, f"{stem}.npy", file), None
    array, affine, kind = read_volume(file.path, file.member, file.rule)
    _refuse_other_count(array, file.rule.facts)
    uri = f"{stem}.nii.gz"
    digest = write_nifti(task.root / uri, array, affine)
    facts = {**file.rule.facts, "voxels": int(array.size)}
    return Asset(kind, uri, digest, file.rule.kind, 1.0, None, facts, (file.name,)), centre_of(
        affine, array.shape
    )


def _refuse_other_count(array: np.ndarray, facts: Mapping[str, object]) -> None:
    """Raises Unusable if the MAP lists a number of b-values or times other than the number of volumes."""
    volumes = array.shape[3] if array.ndim == 4 else 1
    for name in ("DiffusionBValue", "PhaseTime_s"):
        numbers = facts.get(name)
        if isinstance(numbers, Sequence) and len(numbers) != volumes:
            raise Unusable(
                "not_image",
                f"the MAP's facts.{name} lists {len(numbers)} numbers, the file holds {volumes} volumes",
            )


def _signal(root: Path, uri: str, file: CaseFile) -> Asset:
    """Writes an array of an .npz as a plain .npy and returns its asset."""
    array = read_signal(file.path, file.member)
    with (root / uri).open("wb") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
    digest = hashlib.sha256((root / uri).read_bytes()).hexdigest()
    return Asset("signal", uri, digest, file.rule.kind, 1.0, None, {**file.rule.facts}, (file.name,))
