"""What a scan tells the person who ran it."""

from dataclasses import dataclass

from mmvae.ingest.skipped import SkippedFile


@dataclass(frozen=True)
class ScanSummary:
    """Number of cases, files left out, and sentences about what needs a look."""

    cases: int
    skipped: tuple[SkippedFile, ...]
    notes: tuple[str, ...]
