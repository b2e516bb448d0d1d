"""Reads, de-identifies and writes free text as a text asset, whatever its source."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmvae.case import Asset
from mmvae.identity.text import clean_text
from mmvae.ingest.skipped import Unusable


@dataclass(frozen=True)
class Cleaning:
    """How a case's texts are de-identified: identifiers to remove, and days by which dates are shifted."""

    identifiers: tuple[str, ...]
    shift_days: int


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        Unusable: if it is not UTF-8. Other encodings are not guessed, since a wrongly decoded name would not be found and
            would remain in the text.
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
    """Writes the de-identified text into the cohort and returns its asset.

    Args:
        root: The cohort's folder.
        uri: Path of the asset in it.
        text: The original text.
        cleaning: How it is de-identified.
        files: F of the files from which it was read.
        kind: Kind of the asset, if the MAP states it.
    """
    clean = clean_text(text, cleaning.identifiers, cleaning.shift_days).strip() + "\n"
    (root / uri).write_text(clean, encoding="utf-8")
    digest = hashlib.sha256(clean.encode()).hexdigest()
    return Asset("text", uri, digest, kind, None if kind is None else 1.0, files=tuple(files))
