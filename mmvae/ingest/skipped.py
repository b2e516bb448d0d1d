"""What is left out of a cohort, and why: a closed list of codes, and a sentence for each file."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# The closed list of reasons for which a file is left out; a sentence with the violated condition stands beside each.
SKIP_CODES = {
    "truncated": "the file ends early or does not decompress",
    "not_image": "the file is no volume, picture or text that can be read",
    "no_position": "the geometry cannot be inverted or is not finite",
    "not_mapped": "no row of the table names the file",
    "limit": "the file exceeds a limit of time, memory or size",
    "not_dicom": "the file is no DICOM object",
    "unreadable": "the file or folder may not be opened",
    "no_decoder": "no installed codec reads the transfer syntax",
    "gap": "slices are missing or irregular beyond what is resampled",
    "mixed_geometry": "the file disagrees with its series in geometry",
    "localizer": "a localizer or scout",
    "screenshot": "a colour picture, or one with letters burnt in",
    "derived": "a reformat, projection or subtraction",
    "duplicate": "another file holds the same instance",
}


@dataclass(frozen=True)
class Skipped:
    """A file left out: F, code and sentence."""

    file: str
    code: str
    reason: str


def write_skipped(root: Path, skipped: Iterable[Skipped]) -> None:
    """skipped.jsonl of a cohort, sorted by F."""
    lines = (
        json.dumps({"file": s.file, "series": None, "code": s.code, "reason": s.reason}) + "\n"
        for s in sorted(skipped, key=lambda s: (s.file, s.code))
    )
    (root / "skipped.jsonl").write_text("".join(lines))


class Unusable(Exception):
    """A file that costs itself: code and sentence."""

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason
