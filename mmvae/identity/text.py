"""De-identifies free text: removes identifiers and lines that name people, and shifts dates."""

import datetime
import re
from collections.abc import Iterable, Iterator


def spellings(identifier: str) -> Iterator[str]:
    """An identifier, the parts of a name (PS3.5 6.2: components by ^, groups by =), and the name with the given name first."""
    yield identifier
    parts = [p for p in re.split(r"[\^=\\]", identifier) if len(p.strip()) >= 3]
    yield from parts
    if len(parts) > 1:
        yield f"{parts[1]} {parts[0]}"


def clean_text(text: str, identifiers: Iterable[str], shift_days: int) -> str:
    """A de-identified text: without naming lines and identifiers, every date shifted by `shift_days`.

    Every text of a cohort passes through this function, whatever its source.
    """
    return shifted_dates(without_identifiers(without_naming_lines(text), identifiers), shift_days)


def without_identifiers(text: str, identifiers: Iterable[str]) -> str:
    """The text with every identifier of three characters or more replaced, in upper or lower case."""
    for identifier in sorted({i.strip() for i in identifiers if len(i.strip()) >= 3}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(identifier)}(?!\w)", "[removed]", text, flags=re.IGNORECASE)
    return text


# Lines at a report's head or foot that name people and places, in English and French.
_NAMING_LINES = re.compile(
    r"^[ \t]*(?:patient(?:'s)?(?:[ \t]*(?:name|id|no))?|(?:first|last|full|family|given)?[ \t]*name|mrn|medical record(?: number)?|ssn|dob|date of birth|birth ?date|"
    r"accession(?:[ \t]*(?:number|no))?|(?:referring|requesting|attending|reading|performing)(?:[ \t]*(?:physician|doctor|clinician))?|referred by|"
    r"radiologist|operator|technologist|reported by|dictated by|(?:electronically )?signed(?: by)?|verified by|physician|doctor|address|phone|tel|fax|hospital|institution|"
    r"department|ward|nom|pr[ée]nom|n[ée]\(?e?\)? le|m[ée]decin|ipp|adresse|service|h[ôo]pital|signature)[ \t.]*[:#=].*$",
    re.IGNORECASE | re.MULTILINE,
)


def without_naming_lines(text: str) -> str:
    """The text without the lines of a report's head and foot that name somebody, whether or not the header knows the name."""
    return _NAMING_LINES.sub("[removed]", text)


_DATES = re.compile(
    r"(?<!\d)(?:(?P<y>(?:19|20)\d\d)(?P<s>[-/.]?)(?P<m>0[1-9]|1[0-2])(?P=s)(?P<d>0[1-9]|[12]\d|3[01])"
    r"|(?P<d2>0?[1-9]|[12]\d|3[01])(?P<s2>[-/.])(?P<m2>0?[1-9]|1[0-2])(?P=s2)(?P<y2>(?:19|20)\d\d))(?!\d)"
)


def shifted_dates(text: str, days: int) -> str:
    """The text with every date (year first, or day first with its year) shifted by `days`; its format is kept."""

    def shifted(match: re.Match) -> str:
        year, month, day = (int(match[a] or match[b]) for a, b in (("y", "y2"), ("m", "m2"), ("d", "d2")))
        try:
            date = datetime.date(year, month, day) + datetime.timedelta(days)
        except (ValueError, OverflowError):
            return "[removed]"
        if match["y"]:
            return date.strftime(f"%Y{match['s']}%m{match['s']}%d")
        return date.strftime(f"%d{match['s2']}%m{match['s2']}%Y")

    return _DATES.sub(shifted, text)
