"""Lists the files below a folder, with archives unpacked, and what cannot be opened."""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmvae.identity.vault import Vault
from mmvae.ingest.archives import is_archive, unpack
from mmvae.ingest.skipped import SkippedFile, Unusable


@dataclass(frozen=True)
class SourceFile:
    """A file of the source.

    Args:
        number: Number of the file in the scan.
        path: Path from which it is read.
        relative: Path relative to the source (`archive.zip/member` in an archive).
        name: F, the pseudonym of the relative path.
    """

    number: int
    path: Path
    relative: str
    name: str


def walk(source: Path, unpacked: Path, vault: Vault) -> tuple[list[SourceFile], list[SkippedFile]]:
    """Every file below the source, sorted by path, with archives unpacked; and what cannot be opened.

    A link to a file counts as the file; a link to a folder is not followed, since it may form a cycle. A name that is not
    UTF-8 is kept as `os.fsdecode` gives it.
    """
    paths: list[Path] = []
    unlisted: dict[Path, str] = {}

    def refuse(error: OSError) -> None:
        unlisted[Path(error.filename)] = f"the folder cannot be listed (error {error.errno})"

    for folder, folders, names in os.walk(source, onerror=refuse):
        paths += (Path(folder, name) for name in names)
        unlisted |= {
            link: "a link to a folder is not followed"
            for name in folders
            if (link := Path(folder, name)).is_symlink()
        }
    files: list[SourceFile] = []
    skipped = [
        SkippedFile(vault.file(path.relative_to(source).as_posix()), None, "unreadable", why)
        for path, why in unlisted.items()
    ]
    for path in sorted(paths):
        relative = path.relative_to(source).as_posix()
        if not path.is_file():
            why = "the link leads nowhere" if path.is_symlink() else "it is not a regular file"
            skipped.append(SkippedFile(vault.file(relative), None, "unreadable", why))
        elif is_archive(path.name):
            into = unpacked / hashlib.sha256(os.fsencode(relative)).hexdigest()[:16]
            for member, unpacked_at in _unpacked(path, into):
                place = f"{relative}/{member}" if member else relative
                name = vault.file(place)
                if isinstance(unpacked_at, Unusable):
                    skipped.append(SkippedFile(name, None, unpacked_at.code, unpacked_at.reason))
                else:
                    files.append(SourceFile(len(files), unpacked_at, place, name))
        else:
            files.append(SourceFile(len(files), path, relative, vault.file(relative)))
    return files, skipped


def _unpacked(path: Path, into: Path) -> Iterator[tuple[str, Path | Unusable]]:
    """The members of an archive; the archive's own file, if it cannot be opened at all, so that it is named for what it is."""
    try:
        with path.open("rb"):
            yield from unpack(path, path.name, into)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
            raise
        yield "", Unusable("unreadable", f"the archive cannot be opened (error {error.errno})")
