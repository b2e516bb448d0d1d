"""The summary of a scan that is shown to the user."""

from dataclasses import dataclass

from mmvae.ingest.skipped import SkippedFile


@dataclass(frozen=True)
class ScanSummary:
    """Number of cases, files left out, and notes on what the user should check."""

    cases: int
    skipped: tuple[SkippedFile, ...]
    notes: tuple[str, ...]
