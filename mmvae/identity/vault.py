"""Keyed pseudonyms, and the vault, the only place that stores the identifiers behind them."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmvae.atomic import write_atomically
from mmvae.errors import InputError


def pseudonym(key: bytes, room: str, prefix: str, identifier: str) -> str:
    """The keyed pseudonym of an identifier: always the same for one key, and meaningless without it.

    Args:
        key: The vault's.
        room: What is named (patients, cases, files, series); the same identifier has another pseudonym in each.
        prefix: First letter of the pseudonym.
        identifier: The real one.
    """
    # A path that is not UTF-8 holds its bytes as surrogates.
    named = f"{room}:{identifier}".encode(errors="surrogateescape")
    return prefix + hmac.new(key, named, hashlib.sha256).hexdigest()[:16]


def vault_path(cohort: Path) -> Path:
    """The folder of a cohort's vault: `$MMVAE_VAULT`, else `<COHORT>.vault/` beside it."""
    named = os.environ.get("MMVAE_VAULT")
    return Path(named) if named else cohort.with_name(cohort.name + ".vault")


@dataclass
class Vault:
    """A folder (0700) with the key (0600) and the identifier behind each pseudonym; everything else sees pseudonyms only.

    Args:
        root: The folder.
        key: The key, 32 bytes.
        known: Identifiers by pseudonym for patients, cases, files and series; under `many`, file names by the hash of their list.
    """

    root: Path
    key: bytes
    known: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"patients": {}, "cases": {}, "files": {}}
    )

    @classmethod
    def open(cls, root: Path, create: bool = False) -> "Vault":
        """The vault in a folder; with `create`, a new vault with a new key if there is none.

        Raises:
            InputError: if there is no vault, or it cannot be read.
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
        """The pseudonym of the series from which a stack was made, given their SeriesInstanceUIDs joined by +."""
        return self._name("series", "s", identifier)

    def many(self, digest: str, names: Sequence[str]) -> None:
        """Stores the files that a hash in a case's `files` stands for, so that they can be renamed."""
        self.known.setdefault("many", {})[digest] = list(names)

    def shift_days(self, identifier: str) -> int:
        """The number of days by which a patient's dates are shifted: −1 to −3650, always the same for one key."""
        digest = hmac.new(
            self.key, f"dates:{identifier}".encode(errors="surrogateescape"), hashlib.sha256
        ).digest()
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
                json.dumps(self.known, sort_keys=True).encode(),
            )
        finally:
            os.umask(previous)
