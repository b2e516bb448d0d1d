"""The summary of a scan that is shown to the user."""

from dataclasses import dataclass

from mmvae.ingest.notes import Note
from mmvae.ingest.skipped import SkippedFile


@dataclass(frozen=True)
class ScanSummary:
    """Number of cases, files left out, doubts about what was used, and remarks for the user on the whole scan."""

    cases: int
    skipped: tuple[SkippedFile, ...]
    notes: tuple[Note, ...]
    remarks: tuple[str, ...]
