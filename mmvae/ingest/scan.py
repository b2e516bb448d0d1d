"""Scans a folder of DICOM studies into a cohort folder; every file is accounted for, and a broken file costs only itself."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmvae.atomic import write_atomically
from mmvae.case import Card, Case, Field
from mmvae.cohort import write_cohort
from mmvae.errors import InputError, NoCases
from mmvae.identity.vault import Vault, vault_path
from mmvae.ingest.annotations import Annotations, read_annotations
from mmvae.ingest.assembly import Assembler
from mmvae.ingest.claims import AskClaims, ClaimProcess
from mmvae.ingest.notes import Note, write_notes
from mmvae.ingest.patients import patients_of
from mmvae.ingest.progress import Progress, no_progress
from mmvae.ingest.reading import SECONDS_PER_FILE, Study, UnusableFile, read_studies
from mmvae.ingest.skipped import SkippedFile, count_by_code, write_skipped
from mmvae.ingest.source import SourceFile, walk
from mmvae.ingest.study_files import StudyFiles, StudyTask, write_study
from mmvae.ingest.summary import ScanSummary
from mmvae.ingest.table.map import Map
from mmvae.ingest.table.rows import RecordColumn, Row, card_of, record_columns
from mmvae.ingest.workers import TaskFailure, Workers
from mmvae.splits import Splits, draw_splits

UNSURE = 0.7  # below this confidence a kind is reported as unsure
MOST_NAMED = 20  # at most this many series of unknown or unsure kind are listed one by one
HEADER_FIELDS = {
    "age_years": Field("number", "years"), "sex": Field("category", values=("F", "M", "O")),
    "weight_kg": Field("number", "kg"), "height_m": Field("number", "m"),
}  # fmt: skip
# PS3.16 CID 7050: Basic Profile; Clean Descriptors; Retain Longitudinal with Modified Dates; Retain Patient Characteristics.
DEIDENTIFICATION = ("113100", "113105", "113107", "113108")

DrawSplits = Callable[[Sequence[str]], Splits | None]


def scan_studies(
    source: Path, out: Path, records: Path | None = None, reports: Path | None = None, lesions: Path | None = None,
    map_path: Path | None = None, override: Path | None = None, splits: Sequence[int] | None = None, folds: int | None = None,
    split_seed: int = 0, jobs: int = 1, progress: Progress = no_progress, vault: Vault | None = None, ask: AskClaims | None = None,
) -> ScanSummary:  # fmt: skip
    """Scans a folder of DICOM files into a cohort at `out`, which appears by a rename at the end; an interrupted scan resumes.

    Args:
        source: Folder of DICOM files at any depth, which may include zip archives.
        out: Path of the new cohort.
        records: Table keyed by PatientID, AccessionNumber or the column that the MAP's `key` names.
        reports: A folder of <AccessionNumber or PatientID>.txt, or the text file of the only study.
        lesions: Table of lesion points.
        map_path: MAP of the records' columns.
        override: Table of kinds by F or series.
        splits: Numbers of training, validation and test patients; 60/15/25 % by default.
        folds: Number of folds, in place of splits.
        split_seed: Seed of the patients' order.
        jobs: Number of processes that read and write.
        progress: Wraps the iterators over files and studies.
        vault: A vault whose key is used and which is not saved; by default the one beside the cohort.
        ask: Returns the claims of the installed modalities; by default a separate process.

    Raises:
        InputError: if the source or a table cannot be read; nothing is left behind.
        NoCases: if nothing in the source makes a case.
    """
    if not source.is_dir():
        raise InputError(f"{source.name!r} is not a folder", "source")
    if out.exists():
        raise InputError(f"{out.name!r} exists already; name a folder that does not, or remove it", "out")
    annotations = read_annotations(records, reports, lesions, map_path, override)
    own_vault = vault is None
    vault = vault or Vault.open(vault_path(out), create=True)
    if own_vault:
        vault.save()  # an interrupted run must find its key again

    def draw(patients: Sequence[str]) -> Splits | None:
        enough = len(patients) > 2 or splits or folds
        return draw_splits(patients, splits, folds, split_seed) if enough else None

    work = out.with_name(f".{out.name}.scanning")
    try:
        with Workers(jobs) as workers, ClaimProcess() as claims:
            scan = _Scan(source, work, annotations, vault, ask or claims, workers, progress)
            summary = scan.run(draw)
        if own_vault:
            vault.save()
        work.rename(out)
        return summary
    except KeyboardInterrupt:
        raise  # the work folder stays: the next run takes over what was written
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@dataclass
class _Scan:
    """One scan into a work folder, step by step: walk, read, write each study, assemble its cases, write the cohort."""

    source: Path
    work: Path
    annotations: Annotations
    vault: Vault
    ask: AskClaims
    workers: Workers
    progress: Progress
    skipped: list[SkippedFile] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def run(self, draw: DrawSplits) -> ScanSummary:
        """Writes the cohort into the work folder."""
        files = self._walk()
        studies, unusable = read_studies(files, self._folder("headers"), self.workers, self.progress)
        self._skip(files, unusable)
        patients, remarks = patients_of(list(studies.values()), self.vault)
        self.remarks += remarks
        assembler = Assembler(self.work, self.vault, self.annotations, self.ask)
        by_number = dict(enumerate(files))
        tasks = {uid: assembler.task(study, patients[uid], by_number) for uid, study in studies.items()}
        of_study: dict[str, StudyFiles] = {}
        rows: dict[str, Row | None] = {}
        for uid, study_files in self._write_all(tasks):
            rows[uid] = assembler.row(studies[uid], study_files)
            of_study[uid] = replace(study_files, identifiers=())  # memory stays flat
        self._ask_all(of_study.values())
        columns = self._columns([row for row in rows.values() if row])
        cases: list[Case] = []
        first: dict[str, str] = {}
        for uid in sorted(studies, key=lambda uid: studies[uid].first):
            self.skipped += of_study[uid].skipped
            self.notes += of_study[uid].notes
            assembled = assembler.cases(studies[uid], patients[uid], of_study[uid], rows[uid], columns)
            cases += assembled
            if assembled:
                first.setdefault(patients[uid], studies[uid].first)
        self._note_unused_rows(study for uid, study in studies.items() if of_study[uid].assets)
        self.remarks += _unsure(cases)
        if not cases:
            raise NoCases(
                f"the scan found no case (left out: {count_by_code(self.skipped)}); expected DICOM files of a patient's images, or a "
                "MAP whose file templates fit the source",
                "source",
            )
        self._finish(cases, columns, draw(sorted(first, key=lambda p: (first[p], p))))
        return ScanSummary(len(cases), tuple(self.skipped), tuple(self.notes), tuple(self.remarks))

    def _folder(self, name: str) -> Path:
        """An empty folder for files that are needed only during the scan."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / name).mkdir(parents=True)
        return self.work / name

    def _walk(self) -> list[SourceFile]:
        for name in ("cases", "done"):
            (self.work / name).mkdir(parents=True, exist_ok=True)
        files, self.skipped = walk(self.source, self.work / "unpacked", self.vault)
        if not files and not self.skipped:
            raise InputError(f"{self.source.name!r} is empty; expected DICOM files at any depth", "source")
        return files

    def _skip(self, files: Sequence[SourceFile], unusable: Sequence[UnusableFile]) -> None:
        for item in unusable:
            series = self.vault.series(item.series) if item.series else None
            self.skipped.append(SkippedFile(files[item.number].name, series, item.code, item.reason))

    def _write_all(self, tasks: Mapping[str, StudyTask]) -> Iterator[tuple[str, StudyFiles]]:
        """Writes each study in worker processes; studies that an earlier run finished are taken over."""
        uid_of = {task.case_id: uid for uid, task in tasks.items()}
        todo, ticks = [], iter(self.progress(range(len(tasks)), len(tasks)))
        for uid, task in tasks.items():
            finished = _finished(self.work / "done" / task.case_id)
            if finished is None:
                todo.append(task)
            else:
                next(ticks, None)
                yield uid, finished
        for task, answer in self.workers.run(
            write_study, ((task, 0) for task in todo), lambda task: 60.0 + SECONDS_PER_FILE * len(task.files)
        ):
            next(ticks, None)
            if isinstance(answer, TaskFailure):
                answer.refuse_full_disk()
                answer = task.nothing_written(f"writing the study in a worker process: {answer.why}")
            write_atomically(self.work / "done" / task.case_id, json.dumps(answer.plain()).encode())
            yield uid_of[task.case_id], answer

    def _ask_all(self, of_studies: Iterable[StudyFiles]) -> None:
        """Requests all claims at once, so that the scan waits only once for the process that computes them."""
        self.ask([{**asset.facts, "type": asset.type} for files in of_studies for asset in files.assets])

    def _columns(self, rows: Sequence[Row]) -> dict[str, RecordColumn]:
        mapping = self.annotations.mapping
        return record_columns(mapping, rows) if mapping and self.annotations.rows else {}

    def _note_unused_rows(self, studies: Iterable[Study]) -> None:
        rows = self.annotations.rows
        names = {name for study in studies for name in (self.vault.case(study.uid), *study.names)}
        unused = len(rows) - len(names & set(rows))
        if unused:
            self.remarks.append(f"{unused} of {len(rows)} rows of the records belong to no study")

    def _finish(
        self, cases: Sequence[Case], columns: Mapping[str, RecordColumn], splits: Splits | None
    ) -> None:  # fmt: skip
        """Writes card, cases, splits, skipped files and notes, and removes what was needed only during the scan."""
        for name in ("headers", "unpacked", "done"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        card = _card(self.annotations.mapping or Map("", record={}), cases, columns)
        write_cohort(self.work, card, cases, splits)
        write_skipped(self.work, self.skipped)
        write_notes(self.work, self.notes)


def _finished(path: Path) -> StudyFiles | None:
    """The files of a study as an earlier run of this release wrote them; None if there are none."""
    if not path.is_file():
        return None
    try:
        return StudyFiles.read(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError):  # of another release
        return None


def _card(mapping: Map, cases: Sequence[Case], columns: Mapping[str, RecordColumn]) -> Card:
    """The card, including the fields that headers fill; kinds by frequency are the reference if the MAP has none."""
    card = card_of(mapping, cases, columns, "dicom")
    fields = {name: spec for name, spec in HEADER_FIELDS.items() if any(name in c.record for c in cases)}
    assets = [asset for case in cases for asset in case.assets]
    known = Counter(asset.kind for asset in assets if asset.type == "volume" and asset.kind)
    assumed = {a.kind or a.type: {"spacing_mm": [1.0, 1.0, 1.0]} for a in assets if a.facts.get("spacing_assumed")}  # fmt: skip
    return replace(
        card,
        fields={**fields, **card.fields},
        deidentification=DEIDENTIFICATION,
        reference=card.reference or tuple(kind for kind, _ in known.most_common()),
        assumed={**card.assumed, **assumed},
    )


def _unsure(cases: Sequence[Case]) -> list[str]:
    """Remarks on how many series are of unknown or unsure kind, and on each of them its best and second-best claim."""
    series = [(case, asset) for case in cases for asset in case.assets if asset.type in ("volume", "image")]
    unknown = [item for item in series if item[1].kind is None]
    close = [item for item in series if item[1].kind is not None and (item[1].confidence or 0) < UNSURE]
    remarks = [
        f"{len(series)} series: {len(unknown)} of no known kind, {len(close)} unsure (confidence below {UNSURE}); "
        "`mmvae assign` corrects them"
    ]
    for case, asset in [*unknown, *close][:MOST_NAMED]:
        best = f"{asset.kind} {asset.confidence:.2f}" if asset.kind else "no kind"
        second = f", then {asset.runner_up}" if asset.runner_up else ""
        remarks.append(f"  series {asset.facts.get('series')} of case {case.case_id}: {best}{second}")
    if len(unknown) + len(close) > MOST_NAMED:
        remarks.append(f"  and {len(unknown) + len(close) - MOST_NAMED} more, in cases.jsonl")
    return remarks
