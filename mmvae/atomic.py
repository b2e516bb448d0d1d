"""Files and folders that appear whole or not at all: built beside their place, renamed at the end, removed on failure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmvae.errors import InputError


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def built_beside(target: Path, label: str = "writing") -> Iterator[Path]:
    """A free path beside `target` to build a file or folder at; it takes the target's name when the block ends.

    A file replaces the target; a folder needs a free place. Where the block raises, what was built is removed.

    Args:
        target: Where the result will stand; its parents are made.
        label: Last part of the hidden name, so that two steps of one command do not meet.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with built_beside(Path(folder) / "report.txt") as beside:
    ...         _ = beside.write_text("whole")
    ...         print((Path(folder) / "report.txt").exists())
    ...     print((Path(folder) / "report.txt").read_text())
    False
    whole
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{label}")
    _remove(beside)
    try:
        yield beside
        os.replace(beside, target)
    except BaseException:
        _remove(beside)
        raise


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its name when the block ends.

    Raises:
        InputError: where `out` exists already.
    """
    if out.exists():
        raise InputError(f"{out.name!r} exists already; name a folder that does not, or remove it", "out")
    with built_beside(out) as beside:
        beside.mkdir()
        yield beside


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that is there whole or, where writing fails, as it was before.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a" / "key", b"secret")
    ...     print((Path(folder) / "a" / "key").read_bytes())
    b'secret'
    """
    with built_beside(path, f"{os.getpid()}") as beside:
        beside.write_bytes(data)


def swap_folder(new: Path, place: Path) -> None:
    """Puts the folder `new` at `place` and removes what stood there; two renames, the old one first."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(place, old)
    os.rename(new, place)
    shutil.rmtree(old)
