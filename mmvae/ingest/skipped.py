"""Files that are left out of a cohort, each with a code from a closed list and a sentence that gives the reason."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

# The closed list of codes for files that are left out; a sentence with the violated condition accompanies each.
SKIP_CODES = {
    "truncated": "the file ends early or does not decompress",
    "not_image": "the file is not a readable volume, picture or text",
    "no_position": "the geometry cannot be inverted or is not finite",
    "not_mapped": "no row of the table names the file",
    "limit": "the file exceeds a limit of time, memory or size",
    "not_dicom": "the file is not a DICOM object",
    "unreadable": "the file or folder may not be opened",
    "no_decoder": "no installed codec reads the transfer syntax",
    "gap": "slices are missing or irregular beyond what is resampled",
    "mixed_geometry": "the file disagrees with its series in geometry",
    "localizer": "a localizer or scout",
    "screenshot": "a colour picture, or one with burnt-in text",
    "derived": "a reformat, projection or subtraction",
    "duplicate": "another file holds the same instance",
}


class Unusable(Exception):
    """Raised for a file that is left out: code, reason and, if its header was read, its SeriesInstanceUID."""

    def __init__(self, code: str, reason: str, series: str | None = None):
        super().__init__(reason)
        self.code, self.reason, self.series = code, reason, series


@dataclass(frozen=True)
class SkippedFile:
    """A line of skipped.jsonl: F, the pseudonym of the file's series (None if no header was read), code and reason."""

    file: str
    series: str | None
    code: str
    reason: str

    def __post_init__(self):
        if self.code not in SKIP_CODES:
            raise ValueError(f"the code {self.code!r} is none of {', '.join(SKIP_CODES)}")


def write_skipped(root: Path, skipped: Iterable[SkippedFile]) -> None:
    """Writes a cohort's skipped.jsonl, sorted by F."""
    lines = (json.dumps(asdict(s)) + "\n" for s in sorted(skipped, key=lambda s: (s.file, s.code)))
    (root / "skipped.jsonl").write_text("".join(lines))


def count_by_code(skipped: Iterable[SkippedFile]) -> str:
    """The number of files left out for each code, in words: `2 gap, 1 truncated`, or `nothing`."""
    return count_of_codes(item.code for item in skipped)


def count_of_codes(codes: Iterable[str]) -> str:
    """How often each code occurs, in words."""
    codes = list(codes)
    return ", ".join(f"{codes.count(code)} {code}" for code in sorted(set(codes))) or "nothing"
