"""Writing files and folders atomically: built beside their final path, renamed at the end, removed on failure."""

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
    """A free path beside `target` at which to build a file or folder; it is renamed to `target` when the block ends.

    A file replaces the target; for a folder the target must not exist. If the block raises, what was built is removed.

    Args:
        target: Final path of the result; its parents are created.
        label: Last part of the hidden name, so that two steps of one command do not collide.

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
    """An empty folder beside `out` that is renamed to it when the block ends.

    Raises:
        InputError: if `out` exists already.
    """
    if out.exists():
        raise InputError(f"{out.name!r} exists already; name a folder that does not, or remove it", "out")
    with built_beside(out) as beside:
        beside.mkdir()
        yield beside


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file atomically; if writing fails, it is as it was before.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "a" / "key", b"secret")
    ...     print((Path(folder) / "a" / "key").read_bytes())
    b'secret'
    """
    with built_beside(path, f"{os.getpid()}") as beside:
        beside.write_bytes(data)


def swap_folder(new: Path, place: Path) -> None:
    """Moves the folder `new` to `place` and removes the old one, by two renames, that of the old folder first."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(place, old)
    os.rename(new, place)
    shutil.rmtree(old)
