"""What was used but not beyond doubt, each with a code from a closed list and a sentence that gives the doubt (notes.jsonl)."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

# The closed list of codes for doubts; a sentence with what was found and what was taken accompanies each.
NOTE_CODES = {
    "disagreement": "two sources of one value disagree; the sentence says which was taken",
    "assumed": "a unit, scale or spacing that the file does not state",
    "unreadable_value": "a value that could not be read is missing",
    "segment_left_out": "a segment that marks an organ, not a lesion",
    "unsure_kind": "the kind is below its threshold, or the stack may be half of one",
    "column_left_out": "a column of a table that did not enter the record",
    "unused_entry": "a row, report or lesion that belongs to no study",
    "report_choice": "the case has several texts that claim to be its report",
}


@dataclass(frozen=True)
class Note:
    """A line of notes.jsonl.

    Args:
        file: F of the file, or None if it is not about one file.
        case: Pseudonym of the case, or None.
        code: One of `NOTE_CODES`.
        reason: What was found and what was taken, in a sentence without identifiers.
    """

    file: str | None
    case: str | None
    code: str
    reason: str

    def __post_init__(self):
        if self.code not in NOTE_CODES:
            raise ValueError(f"the code {self.code!r} is none of {', '.join(NOTE_CODES)}")


def write_notes(root: Path, notes: Iterable[Note]) -> None:
    """Writes a cohort's notes.jsonl, sorted, each note once."""
    by_place = sorted(set(notes), key=lambda n: (n.case or "", n.file or "", n.code, n.reason))
    (root / "notes.jsonl").write_text("".join(json.dumps(asdict(note)) + "\n" for note in by_place))
