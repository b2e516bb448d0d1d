"""DICOM studies → a cohort folder: every file is accounted for once, and a broken one costs itself."""

import pickle
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmvae.atomic import write_atomically
from mmvae.case import Asset, Case, Field, Lesion
from mmvae.cohort import write_cohort
from mmvae.errors import InputError
from mmvae.identity.vault import Vault, vault_path, without_identifiers
from mmvae.ingest.assign import read_override, reassigned
from mmvae.ingest.inspect import SourceFile
from mmvae.ingest.mapping import Map, read_map, read_table
from mmvae.ingest.skipped import Skipped, write_skipped
from mmvae.ingest.source import SECONDS_A_FILE, Study, read_all, walk
from mmvae.ingest.table import field_types, with_words, words_card
from mmvae.ingest.workers import Failed, Workers
from mmvae.ingest.writing import Task, Written, write_study
from mmvae.splits import draw_splits

# PatientIDs that name nobody: the study then counts as the patient.
NOBODY = re.compile(
    r"(|0+|anon.*|unknown|none|null|n/?a|test|phantom|dicom2nifti|deidentified|de-identified|x+)",
    re.IGNORECASE,
)
MANY_STUDIES = 30
SURE, TOLD = 0.7, 20  # below this confidence a kind is reported as unsure, and so many are named one by one
HEADER_FIELDS = {
    "age_years": Field("number", "years"), "sex": Field("category", values=("F", "M", "O")),
    "weight_kg": Field("number", "kg"), "height_m": Field("number", "m"),
}  # fmt: skip
# PS3.16 CID 7050: Basic Profile; Clean Descriptors; Retain Longitudinal with Modified Dates; Retain Patient Characteristics.
DEIDENTIFICATION = ("113100", "113105", "113107", "113108")


# ---- a source → a cohort ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scanned:
    """What a scan found: cases, files left out, and sentences for the person who ran it."""

    cases: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Beside:
    """What stands beside the files: the records' MAP and rows by key, lesion points by name, kinds by hand, reports."""

    mapping: Map | None
    table: Mapping[str, Mapping[str, str]]
    points: Mapping[str, Sequence[tuple[float, float, float]]]
    override: Mapping[str, str]
    reports: Path | None


def scan_dicom(
    source: Path, out: Path, records: Path | None = None, reports: Path | None = None, lesions: Path | None = None,
    map_path: Path | None = None, override: Path | None = None, splits: Sequence[int] | None = None, folds: int | None = None,
    split_seed: int = 0, jobs: int = 1, progress: Callable = lambda items, total: items, vault: Vault | None = None,
) -> Scanned:  # fmt: skip
    """The cohort of a folder of DICOM files at `out`, by rename at the end; a scan that was stopped goes on where it was.

    `reports` is a folder of <AccessionNumber or PatientID>.txt, or the one study's text. With a `vault` of the caller's its key is
    used and nothing of it is kept.

    Raises:
        InputError: where the source or a table cannot be read; nothing is left behind.
    """
    if not source.is_dir():
        raise InputError(f"SOURCE {source.name!r} is no folder")
    if out.exists():
        raise InputError(f"--out {out.name!r} exists already; name a folder that does not, or remove it")
    mapping, table = _words(records, map_path)
    beside = _Beside(mapping, table, _points(lesions), read_override(override), reports)
    kept = vault is None
    vault = vault or Vault.open(vault_path(out), create=True)
    if kept:
        vault.save()  # a run that is stopped must find its key again
    work = out.with_name(f".{out.name}.scanning")
    try:
        made = _scan(source, work, beside, (splits, folds, split_seed), jobs, progress, vault)
        if made.cases:
            if kept:
                vault.save()
            work.rename(out)
        else:
            shutil.rmtree(work, ignore_errors=True)
        return made
    except KeyboardInterrupt:
        raise  # the work folder stays: what was written is taken over by the next run
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _words(records: Path | None, map_path: Path | None) -> tuple[Map | None, dict[str, dict[str, str]]]:
    """MAP and rows by key; without a MAP every other column is a field of the record."""
    if records is None:
        return (read_map(map_path), {}) if map_path else (None, {})
    if map_path:
        mapping = read_map(map_path)
        rows = read_table(records, mapping.columns())
    else:
        rows = read_table(records, set())
        key = next(iter(rows[0]))
        mapping = Map(key, every_other_column=True)
    made: dict[str, dict[str, str]] = {}
    for line, row in enumerate(rows, 2):
        name = (row.get(mapping.key) or "").strip()
        if name in made:
            raise InputError(
                f"--records {records.name} line {line}: {mapping.key} stands on an earlier line too; one row is one case"
            )
        made[name] = row
    return mapping, made


def _points(path: Path | None) -> dict[str, list[tuple[float, float, float]]]:
    """Lesion points in LPS mm by case_id, PatientID or AccessionNumber."""
    if path is None:
        return {}
    made: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for line, row in enumerate(read_table(path, {"case", "x_mm", "y_mm", "z_mm"}), 2):
        try:
            point = tuple(float(row[axis]) for axis in ("x_mm", "y_mm", "z_mm"))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"--lesions {path.name} line {line}: expected three numbers x_mm, y_mm, z_mm (LPS)"
            ) from error
        if not np.isfinite(point).all():
            raise InputError(
                f"--lesions {path.name} line {line}: expected three finite numbers x_mm, y_mm, z_mm (LPS)"
            )
        made[(row["case"] or "").strip()].append(point)
    return made


def _scan(
    source: Path, work: Path, beside: "_Beside", drawing: tuple, jobs: int, progress: Callable, vault: Vault
) -> Scanned:
    """The cohort in the work folder."""
    mapping, table, points = beside.mapping, beside.table, beside.points
    headers = work / "headers"
    shutil.rmtree(headers, ignore_errors=True)
    headers.mkdir(parents=True, exist_ok=True)
    (work / "cases").mkdir(exist_ok=True)
    done = work / "done"
    done.mkdir(exist_ok=True)
    files, skipped = walk(source, work / "unpacked", vault)
    if not files and not skipped:
        raise InputError(f"SOURCE {source.name!r} is empty; expected DICOM files at any depth")
    notes: list[str] = []
    written, rows = {}, {}
    with Workers(jobs) as workers:
        studies, lost = read_all(files, headers, workers, progress)
        by_number = {one.number: one for one in files}
        skipped += [Skipped(by_number[n].name, code, reason) for n, code, reason in lost]
        patient_of = _patients(studies, vault)
        tasks = _tasks(studies, patient_of, by_number, vault, work, beside, notes)
        for uid, made in _write_all(tasks, done, workers, progress):
            rows[uid] = _row(studies[uid], made.identifiers, table, mapping)
            written[uid] = replace(made, identifiers=())
    types = field_types(mapping, [row for row in rows.values() if row]) if mapping and table else {}
    cases, first = [], {}
    used: set[str] = set()
    for uid in sorted(studies, key=lambda u: studies[u].first):
        study, task, made = studies[uid], tasks[uid], written[uid]
        skipped += made.skipped
        for identifier in made.series.values():
            vault.series(identifier)
        for digest, files_of_it in made.many.items():
            vault.many(digest, files_of_it)
        made = replace(made, assets=tuple(_assigned(asset, made, beside.override) for asset in made.assets))
        if not made.assets:
            shutil.rmtree(work / "cases" / task.case_id, ignore_errors=True)
            continue
        patient = patient_of[uid]
        names = [task.case_id, *sorted(study.patients | study.accessions)]
        row = rows[uid]
        used |= {n for n in names if n in table}
        marked = next((points[n] for n in names if n and n in points), list(made.points)) or [None]
        for number, point in enumerate(marked):
            case = _case(task.case_id, patient, made, point, mapping)
            if number:
                case = _copied(case, f"{task.case_id}-{number + 1}", work)
            cases.append(with_words(case, row, mapping, types) if row and mapping else case)
            cases[-1] = replace(cases[-1], record={**made.record, **cases[-1].record})
        first.setdefault(patient, study.first)
    if table and len(used) < len(table):
        notes.append(f"{len(table) - len(used)} of {len(table)} rows of the records belong to no study")
    notes += _unsure(cases)
    if cases:
        patients = sorted({case.patient for case in cases}, key=lambda p: (first[p], p))
        fields = {
            name: spec for name, spec in HEADER_FIELDS.items() if any(name in case.record for case in cases)
        }
        card = words_card(
            mapping or Map("", record={}),
            cases,
            types,
            "dicom",
        )
        known = Counter(a.kind for case in cases for a in case.assets if a.type == "volume" and a.kind)
        card = replace(
            card,
            fields={**fields, **card.fields},
            deidentification=DEIDENTIFICATION,
            reference=card.reference or tuple(k for k, _ in known.most_common()),
        )
        shutil.rmtree(headers, ignore_errors=True)
        shutil.rmtree(work / "unpacked", ignore_errors=True)
        shutil.rmtree(done, ignore_errors=True)
        write_cohort(
            work,
            card,
            cases,
            draw_splits(patients, *drawing) if len(patients) > 2 or drawing[0] or drawing[1] else None,
        )
        write_skipped(work, skipped)
    return Scanned(len(cases), tuple(skipped), tuple(notes))


def _assigned(asset: Asset, made: Written, override: Mapping[str, str]) -> Asset:
    names = made.many[asset.files["sha256"]] if isinstance(asset.files, Mapping) else ()
    return reassigned(asset, override, names)


def _row(
    study: Study, identifiers: Sequence[str], table: Mapping, mapping: Map | None
) -> dict[str, str] | None:
    """The study's row of the records, without the identifiers that its headers hold."""
    row = next((table[n] for n in sorted(study.patients | study.accessions) if n and n in table), None)
    if row is None or mapping is None:
        return None
    return {
        column: without_identifiers(cell or "", identifiers)
        for column, cell in row.items()
        if column != mapping.key
    }


def _patients(studies: Mapping[str, Study], vault: Vault) -> dict[str, str]:
    """By study the pseudonym of its PatientID; the study's own where that names nobody, several, or too many studies."""
    shared = Counter(name for study in studies.values() for name in study.patients)
    made = {}
    for uid, study in studies.items():
        name = next(iter(study.patients)) if len(study.patients) == 1 else ""
        alone = NOBODY.fullmatch(name.strip()) or shared[name] > MANY_STUDIES
        made[uid] = vault.patient(f"study {uid}" if alone else name)
    return made


def _tasks(
    studies: Mapping[str, Study],
    patient_of: Mapping[str, str],
    files: Mapping[int, SourceFile],
    vault: Vault,
    work: Path,
    beside: "_Beside",
    notes: list[str],
) -> dict[str, Task]:
    several = sum(len(s.patients) > 1 for s in studies.values())
    if several:
        notes.append(f"{several} studies hold several PatientIDs; each is kept as a patient of its own")
    nobody = sum(
        len(s.patients) == 1 and bool(NOBODY.fullmatch(next(iter(s.patients)).strip()))
        for s in studies.values()
    )
    if nobody:
        notes.append(f"{nobody} studies have a PatientID that names nobody; each counts as a patient")
    tasks = {}
    for uid, study in studies.items():
        words = []
        if beside.reports is not None and beside.reports.is_file():
            words.append((beside.reports, vault.file(beside.reports.name)))
        elif beside.reports is not None:
            named = [
                n
                for n in sorted((study.accessions | study.patients) - {""})
                if "/" not in n and n not in (".", "..")
            ]
            there = [path for n in named if (path := beside.reports / f"{n}.txt").is_file()]
            words += [(path, vault.file(f"reports/{path.name}")) for path in there]
        case_id = vault.case(uid)
        shift = vault.shift_days(vault.known["patients"][patient_of[uid]])
        here = {number: files[number] for number in study.files}
        tasks[uid] = Task(study.spool, work, case_id, here, shift, tuple(words), vault.key)
    return tasks


def _write_all(
    tasks: Mapping[str, Task], done: Path, workers: Workers, progress: Callable
) -> Iterator[tuple[str, Written]]:
    """Each study written, in processes; those that an earlier run finished are taken over."""
    uid_of = {task.case_id: uid for uid, task in tasks.items()}
    todo, bar = [], iter(progress(range(len(tasks)), len(tasks)))
    for uid, task in tasks.items():
        kept = done / task.case_id
        if kept.is_file():
            next(bar, None)
            yield uid, pickle.loads(kept.read_bytes())
        else:
            todo.append(task)
    seconds = lambda task: 60.0 + SECONDS_A_FILE * len(task.files)  # noqa: E731
    for task, answer in workers.run(write_study, ((t, 0) for t in todo), seconds):
        next(bar, None)
        if isinstance(answer, Failed):
            answer.refuse_full_disk()
            shutil.rmtree(task.root / "cases" / task.case_id, ignore_errors=True)
            reason = f"writing the study in a process of its own: {answer.why}"
            answer = Written(
                (), {}, {}, (), tuple(Skipped(f.name, "limit", reason) for f in task.files.values())
            )
        write_atomically(done / task.case_id, pickle.dumps(answer))
        yield uid_of[task.case_id], answer


def _case(case_id: str, patient: str, made: Written, point, mapping: Map | None) -> Case:
    """The case of a study about one lesion; else its frame is the centre of the first kind of the MAP's reference, or of its largest series."""
    if point is not None:
        return Case(case_id, patient, made.assets, lesion=Lesion(point), frame_mm=point, frame_from="lesion")
    volumes = [a for a in made.assets if a.type == "volume"]
    order = list(mapping.reference) if mapping else []
    known = sorted(
        (a for a in volumes if a.kind),
        key=lambda a: (order.index(a.kind) if a.kind in order else len(order), -a.facts["voxels"], a.uri),
    )
    chosen = (known or volumes or [None])[0]
    if chosen is None:
        return Case(case_id, patient, made.assets)
    return Case(case_id, patient, made.assets, frame_mm=made.centres[chosen.uri], frame_from=chosen.kind)


def _copied(case: Case, case_id: str, root: Path) -> Case:
    """The same study as a case of another lesion, with files of its own, so that erasing one is one act."""
    target = root / "cases" / case_id
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "cases" / case.case_id, target)
    assets = tuple(replace(a, uri=f"cases/{case_id}/{Path(a.uri).name}") for a in case.assets)
    return replace(case, case_id=case_id, assets=assets)


def _unsure(cases: Sequence[Case]) -> list[str]:
    """How many series are of no known kind or of an unsure one, and which: best and second claim of each."""
    volumes = [(case, asset) for case in cases for asset in case.assets if asset.type == "volume"]
    unknown = [one for one in volumes if one[1].kind is None]
    close = [one for one in volumes if one[1].kind is not None and (one[1].confidence or 0) < SURE]
    told = [
        f"{len(volumes)} series: {len(unknown)} of no known kind, {len(close)} unsure (confidence below {SURE}); "
        "`mmvae assign --override` corrects them"
    ]
    for case, asset in [*unknown, *close][:TOLD]:
        best = f"{asset.kind} {asset.confidence:.2f}" if asset.kind else "no kind"
        second = f", then {asset.runner_up}" if asset.runner_up else ""
        told.append(f"  series {asset.facts.get('series')} of case {case.case_id}: {best}{second}")
    if len(unknown) + len(close) > TOLD:
        told.append(f"  and {len(unknown) + len(close) - TOLD} more, in cases.jsonl")
    return told
