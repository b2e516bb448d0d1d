"""A source led by a table → a cohort folder, and a list of what was skipped, and why."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mmvae.case import Asset, Case, Lesion
from mmvae.cohort import write_cohort
from mmvae.errors import InputError
from mmvae.identity.vault import Vault, vault_path, without_identifiers
from mmvae.ingest.files import read_signal, read_volume
from mmvae.ingest.mapping import AssetRule, Map, read_map, read_table, value_of
from mmvae.ingest.nifti import write_nifti
from mmvae.ingest.skipped import Skipped, Unusable, write_skipped
from mmvae.ingest.table import field_types, with_words, words_card
from mmvae.splits import draw_splits


@dataclass(frozen=True)
class _Wanted:
    """One file of a case: where it is, its F and its rule."""

    path: Path
    member: str | None
    file: str
    rule: AssetRule


@dataclass(frozen=True)
class _Row:
    """All that a worker needs to write one case."""

    case_id: str
    patient: str
    wanted: tuple[_Wanted, ...]
    identifiers: tuple[str, ...]
    cells: Mapping[str, str]
    root: Path
    lesion: tuple[float, float, float] | None
    reference: tuple[str, ...]


def _signal(row: _Row, number: int, wanted: _Wanted) -> Asset:
    """An array of an .npz as a plain .npy."""
    array = read_signal(wanted.path, wanted.member)
    uri = f"cases/{row.case_id}/{number}.npy"
    with (row.root / uri).open("wb") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
    digest = hashlib.sha256((row.root / uri).read_bytes()).hexdigest()
    return Asset("signal", uri, digest, wanted.rule.kind, 1.0, None, {**wanted.rule.facts}, (wanted.file,))


def _write_case(row: _Row) -> tuple[Case, list[Skipped]]:
    """One case's folder and its line, and what of it had to be left out."""
    folder = row.root / "cases" / row.case_id
    folder.mkdir(parents=True)
    assets, skipped, centres = [], [], {}
    for number, wanted in enumerate(row.wanted):
        try:
            if wanted.path.suffix == ".txt":
                try:
                    text = without_identifiers(wanted.path.read_text(encoding="utf-8"), row.identifiers)
                except UnicodeDecodeError as error:
                    raise Unusable("not_image", "the text is not UTF-8") from error
                uri = f"cases/{row.case_id}/{number}.txt"
                (row.root / uri).write_text(text, encoding="utf-8")
                assets.append(
                    Asset(
                        "text",
                        uri,
                        hashlib.sha256(text.encode()).hexdigest(),
                        wanted.rule.kind,
                        1.0,
                        None,
                        {},
                        (wanted.file,),
                    )
                )
                continue
            if wanted.rule.signal:
                assets.append(_signal(row, number, wanted))
                continue
            array, affine, kind = read_volume(wanted.path, wanted.member, wanted.rule)
            stated = wanted.rule.facts
            for name in ("DiffusionBValue", "PhaseTime_s"):
                volumes = array.shape[3] if array.ndim == 4 else 1
                if name in stated and len(stated[name]) != volumes:
                    raise Unusable(
                        "not_image",
                        f"the MAP's facts.{name} lists {len(stated[name])} numbers, the file holds {volumes} volumes",
                    )
        except Unusable as error:
            skipped.append(Skipped(wanted.file, error.code, error.reason))
            continue
        uri = f"cases/{row.case_id}/{number}.nii.gz"
        digest = write_nifti(row.root / uri, array, affine)
        middle = affine @ np.array([*((np.array(array.shape[:3]) - 1) / 2), 1.0])
        centres.setdefault(wanted.rule.kind, tuple(round(float(c), 3) for c in middle[:3]))
        facts = {**wanted.rule.facts, "voxels": int(array.size)}
        assets.append(Asset(kind, uri, digest, wanted.rule.kind, 1.0, None, facts, (wanted.file,)))
    frame, source = (row.lesion, "lesion") if row.lesion else (None, None)
    if frame is None:
        order = [kind for kind in row.reference if kind in centres] or list(centres)
        if order:
            frame, source = centres[order[0]], order[0]
    if not assets:
        shutil.rmtree(folder)
    return Case(
        row.case_id,
        row.patient,
        tuple(assets),
        lesion=Lesion(row.lesion) if row.lesion else None,
        frame_mm=frame,
        frame_from=source,
    ), skipped


def _fill(template: str, cells: Mapping[str, str]) -> str:
    return template.format_map({name: (cell or "").strip() for name, cell in cells.items()})


def scan_table(
    source: Path, out: Path, map_path: Path, records: Path, splits: Sequence[int] | None = None, folds: int | None = None,
    split_seed: int = 0, jobs: int = 1, strict: bool = False, progress: Callable = lambda items, total: items,
) -> tuple[int, list[Skipped]]:  # fmt: skip
    """The cohort of a table-led source at `out`, by rename at the end; how many cases, and what was skipped.

    Raises:
        InputError: where source, MAP or table do not fit; nothing is left behind.
    """
    if not source.is_dir():
        raise InputError(f"SOURCE {source.name!r} is no folder")
    if not any(source.iterdir()):
        raise InputError(f"SOURCE {source.name!r} is empty; expected files that the MAP names")
    if out.exists():
        raise InputError(f"--out {out.name!r} exists already; name a folder that does not, or remove it")
    mapping = read_map(map_path)
    if not mapping.assets and mapping.record is None and not mapping.every_other_column:
        raise InputError(
            f"--map {map_path.name}: the fields 'assets' and 'record' are missing; a source that is no DICOM needs one of them"
        )
    table = read_table(records, mapping.columns())
    vault = Vault.open(vault_path(out), create=True)
    beside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        rows, used = _rows(source, beside, mapping, table, vault)
        if jobs > 1:
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                written = list(progress(pool.map(_write_case, rows), len(rows)))
        else:
            written = list(progress(map(_write_case, rows), len(rows)))
        skipped = [item for _, items in written for item in items]
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            relative = path.relative_to(source).as_posix()
            if relative not in used and path.resolve() not in (records.resolve(), map_path.resolve()):
                skipped.append(
                    Skipped(
                        vault.file(relative),
                        "not_mapped",
                        "no row of the table and no asset of the MAP names this file",
                    )
                )
        types = field_types(mapping, table)
        cases = [with_words(case, row.cells, mapping, types) for (case, _), row in zip(written, rows)]
        cases = [case for case in cases if case.assets or case.record]
        if cases:
            first = {
                row.patient: min((w.path.as_posix() for w in row.wanted), default="~")
                for row in reversed(rows)
            }
            patients = sorted({case.patient for case in cases}, key=lambda p: (first[p], p))
            drawn = draw_splits(patients, splits, folds, split_seed)
            nifti = any(r.file.split("#")[0].endswith((".nii", ".nii.gz")) for r in mapping.assets)
            kind = "nifti" if nifti else "table"
            write_cohort(beside, words_card(mapping, cases, types, kind), cases, drawn)
            write_skipped(beside, skipped)
            vault.save()
            beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(cases), skipped


def _rows(source: Path, root: Path, mapping: Map, table, vault: Vault) -> tuple[list[_Row], set[str]]:
    rows, used, line_of = [], set(), {}
    for line, cells in enumerate(table, 2):
        case = _fill(mapping.case, cells)
        if not case:
            raise InputError(f"the table's line {line} has nothing in {mapping.key!r}; a case needs a name")
        if case in line_of:
            raise InputError(
                f"lines {line_of[case]} and {line} of the table make the same case; one row is one case. Remove one, or widen `case`."
            )
        line_of[case] = line
        patient = _fill(mapping.patient, cells)
        wanted = []
        for rule in mapping.assets:
            name, _, member = _fill(rule.file, cells).partition("#")
            path = source / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise InputError(
                    f"the table's line {line} makes a file name that leaves SOURCE; expected one below it"
                )
            if not path.is_file() or (member and not _has_member(path, member)):
                continue  # a sequence that this patient does not have
            used.add(path.relative_to(source).as_posix())
            relative = path.relative_to(source).as_posix() + (f"#{member}" if member else "")
            wanted.append(_Wanted(path, member or None, vault.file(relative), rule))
        lesion = None
        if mapping.lesion:
            point = [
                value_of(cells.get(mapping.lesion.get(axis, ""), "")) for axis in ("x_mm", "y_mm", "z_mm")
            ]
            lesion = tuple(map(float, point)) if all(isinstance(p, int | float) for p in point) else None
        identifiers = (case, patient, cells.get(mapping.key) or "")
        rows.append(
            _Row(
                vault.case(case),
                vault.patient(patient),
                tuple(wanted),
                identifiers,
                cells,
                root,
                lesion,
                mapping.reference,
            )
        )
    return rows, used


def _has_member(path: Path, member: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{member}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # the worker opens it and says what is wrong
