"""A free text → a text asset: how it is read, what it loses, and how it is written, whichever way it came in."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmvae.case import Asset
from mmvae.identity.text import clean_text
from mmvae.ingest.skipped import Unusable


@dataclass(frozen=True)
class Cleaning:
    """What a case's texts lose: these identifiers, and the distance in days of its dates from the true ones."""

    identifiers: tuple[str, ...]
    shift_days: int


def read_text(path: Path) -> str:
    """A text file's words.

    Raises:
        Unusable: where it is not UTF-8. A text in another encoding is not guessed at: a name that is decoded wrongly is
            not found, and would stay in it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Unusable("not_image", "the text is not UTF-8") from error
    except OSError as error:
        raise Unusable("unreadable", f"the file cannot be opened (error {error.errno})") from error


def write_text_asset(
    root: Path, uri: str, text: str, cleaning: Cleaning, files: Sequence[str], kind: str | None = None
) -> Asset:  # fmt: skip
    """The text, cleaned, in the cohort.

    Args:
        root: The cohort's folder.
        uri: Path of the asset in it.
        text: As it came.
        cleaning: What it loses.
        files: F of what it was read from.
        kind: Where the MAP states it.
    """
    clean = clean_text(text, cleaning.identifiers, cleaning.shift_days).strip() + "\n"
    (root / uri).write_text(clean, encoding="utf-8")
    digest = hashlib.sha256(clean.encode()).hexdigest()
    return Asset("text", uri, digest, kind, None if kind is None else 1.0, files=tuple(files))
