"""Lists the files below a folder, with zip archives unpacked, and what cannot be opened."""

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmvae.identity.vault import Vault
from mmvae.ingest.skipped import SkippedFile, Unusable

LARGEST_ZIP_MEMBER = 2 << 30


@dataclass(frozen=True)
class SourceFile:
    """A file of the source.

    Args:
        number: Number of the file in the scan.
        path: Path from which it is read.
        relative: Path relative to the source (`archive.zip/member` in a zip).
        name: F, the pseudonym of the relative path.
    """

    number: int
    path: Path
    relative: str
    name: str


def walk(source: Path, unpacked: Path, vault: Vault) -> tuple[list[SourceFile], list[SkippedFile]]:
    """Every file below the source, sorted by path, with zip archives unpacked; and what cannot be opened.

    A link to a file counts as the file; a link to a folder is not followed, since it may form a cycle.
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
        if path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path):
            into = unpacked / hashlib.sha256(relative.encode()).hexdigest()[:16]
            for member, unpacked_at in _unzip(path, into):
                name = vault.file(f"{relative}/{member}")
                if isinstance(unpacked_at, Unusable):
                    skipped.append(SkippedFile(name, None, unpacked_at.code, unpacked_at.reason))
                else:
                    files.append(SourceFile(len(files), unpacked_at, f"{relative}/{member}", name))
        else:
            files.append(SourceFile(len(files), path, relative, vault.file(relative)))
    return files, skipped


def _unzip(path: Path, into: Path) -> Iterator[tuple[str, Path | Unusable]]:
    """Each member's name, and the path to which it was unpacked or the reason why it was not."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        zip_file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        yield "", Unusable("truncated", f"the archive cannot be opened ({type(error).__name__})")
        return
    with zip_file as archive:
        for count, info in enumerate(sorted(archive.infolist(), key=lambda i: i.filename)):
            if info.is_dir():
                continue
            unpacked = into / str(count)  # a member's own name may lead out of the folder
            if info.file_size > LARGEST_ZIP_MEMBER:
                size = f"{info.file_size / 2**30:.1f} GiB, more than {LARGEST_ZIP_MEMBER >> 30} GiB"
                yield info.filename, Unusable("limit", f"the size of the archive's member is {size}")
                continue
            try:
                with archive.open(info) as packed, unpacked.open("wb") as out:
                    shutil.copyfileobj(packed, out, 1 << 20)
            except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
                why = "is encrypted" if info.flag_bits & 1 else "does not unpack"
                yield (
                    info.filename,
                    Unusable("truncated", f"the archive's member {why} ({type(error).__name__})"),
                )
            else:
                yield info.filename, unpacked
