"""Keyed pseudonyms and the vault that alone knows what is behind them."""

import datetime
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmvae.atomic import write_atomically
from mmvae.errors import InputError


def pseudonym(key: bytes, room: str, prefix: str, identifier: str) -> str:
    """The keyed pseudonym of an identifier: without the key it tells nothing, with it it is the same each time."""
    return prefix + hmac.new(key, f"{room}:{identifier}".encode(), hashlib.sha256).hexdigest()[:16]


def vault_path(cohort: Path) -> Path:
    """Where a cohort's vault lies: `$MMVAE_VAULT`, else `<COHORT>.vault/` beside it."""
    named = os.environ.get("MMVAE_VAULT")
    return Path(named) if named else cohort.with_name(cohort.name + ".vault")


@dataclass
class Vault:
    """A folder (0700) with the key (0600) and pseudonym → identifier; everything else sees pseudonyms only."""

    root: Path
    key: bytes
    known: dict[str, dict] = field(default_factory=lambda: {"patients": {}, "cases": {}, "files": {}})

    @classmethod
    def open(cls, root: Path, create: bool = False) -> "Vault":
        """The vault at a folder; with `create` a new key where there is none.

        Raises:
            InputError: where there is no vault, or it cannot be read.
        """
        try:
            key = bytes.fromhex((root / "key").read_text().strip())
            known = (
                json.loads((root / "identifiers.json").read_text())
                if (root / "identifiers.json").is_file()
                else None
            )
        except FileNotFoundError as error:
            if not create:
                raise InputError(
                    "there is no vault beside this cohort; set MMVAE_VAULT to the folder that holds its key"
                ) from error
            return cls(root, secrets.token_bytes(32))
        except (OSError, ValueError) as error:
            raise InputError(
                f"the vault cannot be read ({type(error).__name__}); check its rights and its key file"
            ) from error
        return cls(root, key, known) if known else cls(root, key)

    def _name(self, room: str, prefix: str, identifier: str) -> str:
        name = pseudonym(self.key, room, prefix, identifier)
        self.known.setdefault(room, {})[name] = identifier
        return name

    def patient(self, identifier: str) -> str:
        """The patient's pseudonym."""
        return self._name("patients", "p", identifier)

    def case(self, identifier: str) -> str:
        """The case's pseudonym."""
        return self._name("cases", "c", identifier)

    def file(self, relative: str) -> str:
        """F of a path relative to the source."""
        return self._name("files", "f", relative)

    def series(self, identifier: str) -> str:
        """The pseudonym of the series that a stack was made of, its SeriesInstanceUIDs joined by +."""
        return self._name("series", "s", identifier)

    def many(self, digest: str, names: Sequence[str]) -> None:
        """Remembers which files a hash in a case's `files` stands for, so that they can be renamed."""
        self.known.setdefault("many", {})[digest] = list(names)

    def shift_days(self, identifier: str) -> int:
        """By how many days a patient's dates are moved: −1 to −3650, the same each time."""
        digest = hmac.new(self.key, f"dates:{identifier}".encode(), hashlib.sha256).digest()
        return -1 - int.from_bytes(digest[:4]) % 3650

    def whereis(self, name: str) -> str:
        """The path behind an F."""
        if name not in self.known["files"]:
            raise InputError(
                f"the vault knows no file {name!r}; expected an F from cases.jsonl or skipped.jsonl"
            )
        return self.known["files"][name]

    def save(self) -> None:
        """Writes key and identifiers, readable by the owner only."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        previous = os.umask(0o077)
        try:
            write_atomically(self.root / "key", self.key.hex().encode())
            write_atomically(
                self.root / "identifiers.json",
                json.dumps(self.known, ensure_ascii=False, sort_keys=True).encode(),
            )
        finally:
            os.umask(previous)


def spellings(identifier: str) -> Iterator[str]:
    """An identifier as it stands, and the parts of a name (PS3.5 6.2: components by ^, groups by =), given name first too."""
    yield identifier
    parts = [p for p in re.split(r"[\^=\\]", identifier) if len(p.strip()) >= 3]
    yield from parts
    if len(parts) > 1:
        yield f"{parts[1]} {parts[0]}"


def without_identifiers(text: str, identifiers: Iterable[str]) -> str:
    """The text with every identifier of three characters or more replaced, whatever its case."""
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
    """The text without the lines of a report's head and foot that name somebody, known to the study's header or not."""
    return _NAMING_LINES.sub("[removed]", text)


_DATES = re.compile(
    r"(?<!\d)(?:(?P<y>(?:19|20)\d\d)(?P<s>[-/.]?)(?P<m>0[1-9]|1[0-2])(?P=s)(?P<d>0[1-9]|[12]\d|3[01])"
    r"|(?P<d2>0?[1-9]|[12]\d|3[01])(?P<s2>[-/.])(?P<m2>0?[1-9]|1[0-2])(?P=s2)(?P<y2>(?:19|20)\d\d))(?!\d)"
)


def shifted_dates(text: str, days: int) -> str:
    """The text with every date (year first, or day first with its year) moved by so many days; its form is kept."""

    def moved(match: re.Match) -> str:
        year, month, day = (int(match[a] or match[b]) for a, b in (("y", "y2"), ("m", "m2"), ("d", "d2")))
        try:
            date = datetime.date(year, month, day) + datetime.timedelta(days)
        except (ValueError, OverflowError):
            return "[removed]"
        if match["y"]:
            return date.strftime(f"%Y{match['s']}%m{match['s']}%d")
        return date.strftime(f"%d{match['s2']}%m{match['s2']}%Y")

    return _DATES.sub(moved, text)
