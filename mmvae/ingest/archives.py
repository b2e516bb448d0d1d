"""Unpacks archives (zip, tar, gzip, bzip2, xz), also one inside another, within limits that a hostile one cannot exceed."""

import bz2
import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmvae.ingest.skipped import Unusable

LARGEST_MEMBER = 2 << 30  # bytes of one unpacked file
DEEPEST = 4  # archives inside one another; a zip may hold itself
DISK_RESERVE = 1 << 30  # bytes that stay free on the disk to which archives are unpacked

# A member's name, its stated size if the archive states one, and what opens it.
_Member = tuple[str, int | None, Callable[[], Any]]
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError, OSError
)  # fmt: skip
_TARS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_SINGLE: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def is_archive(name: str) -> bool:
    """Whether a file's name says that it is an archive; a compressed NIfTI is none, since it is one volume."""
    name = name.lower()
    return name.endswith((".zip", *_TARS, *_SINGLE)) and not name.endswith(".nii.gz")


def unpack(path: Path, name: str, into: Path, depth: int = 1) -> Iterator[tuple[str, Path | Unusable]]:
    """Each file in an archive by its name there, and the path to which it was unpacked or the reason why it was not.

    A member's own name never decides a path. If the archive itself cannot be opened, or is empty, its name is "".

    Args:
        path: The archive.
        name: Its file name, which says its type.
        into: Folder to which members are unpacked under numbers.
        depth: How many archives this one is inside, with itself.
    """
    if depth > DEEPEST:
        yield "", Unusable("limit", f"archives inside one another more than {DEEPEST} deep")
        return
    into.mkdir(parents=True, exist_ok=True)
    number = 0
    try:
        for number, (member, size, opened) in enumerate(_members(path, name), 1):
            unpacked = into / str(number)
            reason = _write(size, opened, unpacked)
            if reason is not None:
                yield member, reason
            elif is_archive(member):
                for inner, at in unpack(unpacked, member, into / f"{number}.members", depth + 1):
                    yield f"{member}/{inner}" if inner else member, at
                unpacked.unlink()
            else:
                yield member, unpacked
    except _BROKEN as error:
        _raise_if_of_the_system(error)
        how = "read further" if number else "opened"
        yield "", Unusable("truncated", f"the archive cannot be {how} ({type(error).__name__})")
    else:
        if not number:
            yield "", Unusable("not_dicom", "the archive holds no file")


def _members(path: Path, name: str) -> Iterator[_Member]:
    stem, name = Path(name).stem, name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as packed:
            for entry in sorted(packed.infolist(), key=lambda i: i.filename):
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, lambda entry=entry: packed.open(entry)
    elif name.endswith(_TARS):
        with tarfile.open(path) as packed:
            for entry in packed:
                if entry.isfile():  # links and devices hold no samples
                    yield entry.name, entry.size, lambda entry=entry: packed.extractfile(entry)
    else:
        suffix = Path(name).suffix
        yield stem, None, lambda: _SINGLE[suffix](path)


def _write(size: int | None, opened: Callable[[], Any], out: Path) -> Unusable | None:
    """Unpacks one member; the reason if it cannot be, in which case nothing stays behind."""
    free = max(0, shutil.disk_usage(out.parent).free - DISK_RESERVE)
    most = min(LARGEST_MEMBER, free)
    limit = (
        f"{LARGEST_MEMBER >> 30} GiB"
        if most == LARGEST_MEMBER
        else f"the {free / 2**30:.1f} GiB of free disk"
    )
    if size is not None and size > most:
        return Unusable("limit", f"the archive's member has {size / 2**30:.1f} GiB, more than {limit}")
    try:
        with opened() as packed, out.open("wb") as stream:
            written = 0
            while chunk := packed.read(1 << 20):
                written += len(chunk)
                if written > most:
                    break
                stream.write(chunk)
    except _BROKEN as error:
        _raise_if_of_the_system(error)
        out.unlink(missing_ok=True)
        why = (
            "is encrypted"
            if isinstance(error, RuntimeError) and "encrypted" in str(error)
            else "does not unpack"
        )
        return Unusable("truncated", f"the archive's member {why} ({type(error).__name__})")
    if written > most:
        out.unlink()
        return Unusable("limit", f"the archive's member unpacks to more than {limit}")
    return None


def _raise_if_of_the_system(error: BaseException) -> None:
    """Raises an error of the operating system again: only what a broken archive itself raises is the archive's fault."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
