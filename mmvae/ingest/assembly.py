"""One study's headers, and what stands beside them → its cases in a cohort's folder.

`write_study` does the heavy part (voxels and texts) and runs in a process of its own; `Assembler` prepares it, and makes cases
of what it gives. A scan does so for every study of a source; a listener for the one that has arrived.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mmvae.case import Case, Lesion, PointMM
from mmvae.identity.vault import Vault
from mmvae.ingest.annotations import Annotations
from mmvae.ingest.assign import with_kinds
from mmvae.ingest.claims import AskClaims
from mmvae.ingest.point import frame_of
from mmvae.ingest.reading import Study
from mmvae.ingest.source import SourceFile
from mmvae.ingest.study_files import StudyFiles, StudyTask, write_study
from mmvae.ingest.table.rows import RecordColumn, Row, with_row


@dataclass(frozen=True)
class Assembler:
    """Writes studies into a cohort's folder, one at a time.

    Args:
        root: Of the cohort, or of one that is being written.
        vault: That gives the pseudonyms.
        annotations: Records, reports, lesion points and kinds by hand.
        ask: Answers what the installed modalities claim.
    """

    root: Path
    vault: Vault
    annotations: Annotations
    ask: AskClaims

    def task(self, study: Study, patient: str, files: Mapping[int, SourceFile]) -> StudyTask:
        """What a worker needs to write a study's files.

        Args:
            study: As read.
            patient: The pseudonym under which its patient is known.
            files: Of the source, by number.
        """
        reports = ((path, self.vault.file(known)) for path, known in self.annotations.reports_of(study.names))
        shift = self.vault.shift_days(self.vault.known["patients"][patient])
        own = {number: files[number] for number in study.files}
        case_id = self.vault.case(study.uid)
        return StudyTask(study.spool, self.root, case_id, own, shift, tuple(reports), self.vault.key)

    def row(self, study: Study, study_files: StudyFiles) -> Row | None:
        """The study's row of the records, without what its headers hold of identifiers."""
        return self.annotations.row_of(study.names, study_files.identifiers)

    def cases(
        self,
        study: Study,
        patient: str,
        study_files: StudyFiles,
        row: Row | None,
        columns: Mapping[str, RecordColumn],
    ) -> list[Case]:
        """The study's cases, one per lesion point; none, and no folder, where nothing in it could be used.

        Args:
            study: As read.
            patient: Pseudonym.
            study_files: What `write_study` gave.
            row: Of the records.
            columns: Of the record's fields.
        """
        case_id = self.vault.case(study.uid)
        for identifier in study_files.series.values():
            self.vault.series(identifier)
        for digest, names in study_files.many.items():
            self.vault.many(digest, names)
        if not study_files.assets:
            shutil.rmtree(self.root / "cases" / case_id, ignore_errors=True)
            return []
        assets = with_kinds(study_files.assets, self.ask, self.annotations.override, study_files.many)
        study_files = replace(study_files, assets=assets)
        cases = []
        for number, point in enumerate(self._points(case_id, study, study_files) or [None]):
            case = self._case(case_id, patient, study_files, point)
            if number:
                case = self._copy(case, f"{case_id}-{number + 1}")
            if row and self.annotations.mapping:
                case = with_row(case, row, self.annotations.mapping, columns)
            cases.append(replace(case, record={**study_files.record, **case.record}))
        return cases

    def assemble(
        self,
        study: Study,
        patient: str,
        files: Mapping[int, SourceFile],
        columns: Mapping[str, RecordColumn],
    ) -> tuple[list[Case], StudyFiles]:
        """One study written in this process: its cases, and its files with what had to be left out.

        Args:
            study: As read.
            patient: Pseudonym.
            files: Of the source, by number.
            columns: Of the record's fields, as the cohort's card has them.
        """
        study_files = write_study(self.task(study, patient, files))
        row = self.row(study, study_files)
        return self.cases(study, patient, study_files, row, columns), study_files

    def _points(self, case_id: str, study: Study, study_files: StudyFiles) -> list[PointMM]:
        """The lesion points stated for the study, else those that it marks itself."""
        names = [case_id, *study.names]
        stated = next(
            (self.annotations.points[name] for name in names if name in self.annotations.points), None
        )
        return list(study_files.points if stated is None else stated)

    def _case(self, case_id: str, patient: str, study_files: StudyFiles, point: PointMM | None) -> Case:
        reference = self.annotations.mapping.reference if self.annotations.mapping else ()
        frame, frame_from = frame_of(point, study_files.assets, study_files.centres, reference)
        lesion = None if point is None else Lesion(point)
        return Case(
            case_id, patient, study_files.assets, lesion=lesion, frame_mm=frame, frame_from=frame_from
        )

    def _copy(self, case: Case, case_id: str) -> Case:
        """The same study as a case of another lesion, with files of its own, so that erasing one is one act."""
        target = self.root / "cases" / case_id
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.root / "cases" / case.case_id, target)
        assets = tuple(replace(a, uri=f"cases/{case_id}/{Path(a.uri).name}") for a in case.assets)
        return replace(case, case_id=case_id, assets=assets)
