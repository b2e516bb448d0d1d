"""Assembles one study's headers and annotations into cases in a cohort's folder.

`write_study` does the heavy part (voxels and texts) and may run in a worker process; `Assembler` prepares it, and makes cases
from its result. A scan does so for every study of a source, a listener for the study that has arrived.
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
        root: Folder of the cohort, which may still be incomplete.
        vault: Issues the pseudonyms.
        annotations: Records, reports, lesion points and manual kinds.
        ask: Returns the claims of the installed modalities.
    """

    root: Path
    vault: Vault
    annotations: Annotations
    ask: AskClaims

    def task(self, study: Study, patient: str, files: Mapping[int, SourceFile]) -> StudyTask:
        """What a worker needs to write a study's files.

        Args:
            study: The study as read.
            patient: The patient's pseudonym.
            files: Files of the source, by number.
        """
        reports = ((path, self.vault.file(known)) for path, known in self.annotations.reports_of(study.names))
        shift = self.vault.shift_days(self.vault.known["patients"][patient])
        own = {number: files[number] for number in study.files}
        case_id = self.vault.case(study.uid)
        return StudyTask(study.spool, self.root, case_id, own, shift, tuple(reports), self.vault.key)

    def row(self, study: Study, study_files: StudyFiles) -> Row | None:
        """The study's row of the records, with identifiers from its headers removed."""
        return self.annotations.row_of(study.names, study_files.identifiers)

    def cases(
        self,
        study: Study,
        patient: str,
        study_files: StudyFiles,
        row: Row | None,
        columns: Mapping[str, RecordColumn],
    ) -> list[Case]:
        """The study's cases, one per lesion point; none, and no folder, if nothing in it could be used.

        Args:
            study: The study as read.
            patient: The patient's pseudonym.
            study_files: Result of `write_study`.
            row: The study's row of the records.
            columns: Columns of the record's fields.
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
        """Writes one study in this process and returns its cases, and its files including those that were left out.

        Args:
            study: The study as read.
            patient: The patient's pseudonym.
            files: Files of the source, by number.
            columns: Columns of the record's fields, as in the cohort's card.
        """
        study_files = write_study(self.task(study, patient, files))
        row = self.row(study, study_files)
        return self.cases(study, patient, study_files, row, columns), study_files

    def _points(self, case_id: str, study: Study, study_files: StudyFiles) -> list[PointMM]:
        """The lesion points listed for the study, else those that the study itself marks."""
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
        """A case of another lesion of the same study, with its own copies of the files, so that each case can be erased alone."""
        target = self.root / "cases" / case_id
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.root / "cases" / case.case_id, target)
        assets = tuple(replace(a, uri=f"cases/{case_id}/{Path(a.uri).name}") for a in case.assets)
        return replace(case, case_id=case_id, assets=assets)
