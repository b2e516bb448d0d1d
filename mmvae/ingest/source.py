"""A folder of files as they come → headers by study, put beside each other on disk; and what cannot be looked into."""

import hashlib
import os
import pickle
import shutil
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmvae.identity.vault import Vault
from mmvae.ingest.dicom import Header
from mmvae.ingest.inspect import SourceFile, inspect
from mmvae.ingest.skipped import Skipped, Unusable
from mmvae.ingest.workers import Failed, Workers

CHUNK = 64
SECONDS_A_FILE = 5.0
MEMORY = 1 << 30
LARGEST_ZIP_MEMBER = 2 << 30


@dataclass
class Study:
    """What is remembered of a study between its files: names for the vault, its files, and where its headers were put."""

    spool: Path
    files: list[int] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)
    accessions: set[str] = field(default_factory=set)
    first: str = "~"


def walk(source: Path, unpacked: Path, vault: Vault) -> tuple[list[SourceFile], list[Skipped]]:
    """Every file below the source in the order of its path, zip archives opened; and what cannot be looked into.

    A link to a file is the file; a link to a folder is not followed, since it may lead round in a circle.
    """
    paths: list[Path] = []
    lost: dict[Path, str] = {}

    def refuse(error: OSError) -> None:
        lost[Path(error.filename)] = f"the folder cannot be listed (error {error.errno})"

    for folder, folders, names in os.walk(source, onerror=refuse):
        paths += (Path(folder, name) for name in names)
        lost |= {
            link: "a link to a folder is not followed"
            for name in folders
            if (link := Path(folder, name)).is_symlink()
        }
    files: list[SourceFile] = []
    skipped = [
        Skipped(vault.file(path.relative_to(source).as_posix()), "unreadable", why)
        for path, why in lost.items()
    ]
    for path in sorted(paths):
        relative = path.relative_to(source).as_posix()
        if path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path):
            into = unpacked / hashlib.sha256(relative.encode()).hexdigest()[:16]
            for member, taken in _unzip(path, into):
                name = vault.file(f"{relative}/{member}")
                if isinstance(taken, Unusable):
                    skipped.append(Skipped(name, taken.code, taken.reason))
                else:
                    files.append(SourceFile(len(files), taken, f"{relative}/{member}", name))
        else:
            files.append(SourceFile(len(files), path, relative, vault.file(relative)))
    return files, skipped


def _unzip(path: Path, into: Path) -> Iterator[tuple[str, Path | Unusable]]:
    """Each member's name, and where it was unpacked to or why it could not be."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        yield "", Unusable("truncated", f"the archive cannot be opened ({type(error).__name__})")
        return
    with opened as archive:
        for count, info in enumerate(sorted(archive.infolist(), key=lambda i: i.filename)):
            if info.is_dir():
                continue
            taken = into / str(count)  # a member's own name may climb out of the folder
            if info.file_size > LARGEST_ZIP_MEMBER:
                size = f"{info.file_size / 2**30:.1f} GiB, more than {LARGEST_ZIP_MEMBER >> 30} GiB"
                yield info.filename, Unusable("limit", f"the archive's member is of {size}")
                continue
            try:
                with archive.open(info) as packed, taken.open("wb") as out:
                    shutil.copyfileobj(packed, out, 1 << 20)
            except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
                why = "is encrypted" if info.flag_bits & 1 else "does not unpack"
                yield (
                    info.filename,
                    Unusable("truncated", f"the archive's member {why} ({type(error).__name__})"),
                )
            else:
                yield info.filename, taken


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it cannot be asked, which reading it will tell."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_all(
    files: Sequence[SourceFile], work: Path, workers: Workers, progress: Callable
) -> tuple[dict[str, Study], list[tuple[int, str, str]]]:
    """Headers, put beside each other by study on disk, so that memory stays flat; and files that are none."""
    studies: dict[str, Study] = {}
    lost: list[tuple[int, str, str]] = []
    chunks = [tuple(files[i : i + CHUNK]) for i in range(0, len(files), CHUNK)]
    sized = lambda group: (group, 2 * max(_size(f.path) for f in group))  # noqa: E731
    todo, alone = chunks, []
    bar = iter(progress(range(len(files)), len(files)))
    while todo:
        limit = lambda group: SECONDS_A_FILE * len(group)  # noqa: E731
        for group, answer in workers.run(inspect, map(sized, todo), limit, MEMORY):
            if isinstance(answer, Failed):
                answer.refuse_full_disk()
                if len(group) > 1:
                    alone += [(one,) for one in group]
                    continue
                answer = [
                    (group[0].number, "limit", f"reading the file in a process of its own: {answer.why}")
                ]
            by_study: dict[str, list[Header]] = defaultdict(list)
            for one, made in zip(group, answer):
                next(bar, None)
                if isinstance(made, Header):
                    uid = made.study or f"file {one.relative}"
                    by_study[uid].append(made)
                    name = hashlib.sha256(uid.encode()).hexdigest()[:24]
                    study = studies.setdefault(uid, Study(work / f"{name}.headers"))
                    study.files.append(made.file)
                    study.patients.add(made.patient)
                    study.accessions.add(made.accession)
                    study.first = min(study.first, one.relative)
                else:
                    lost.append(made)
            for uid, headers in by_study.items():
                with studies[uid].spool.open("ab") as stream:
                    pickle.dump(headers, stream)
        todo, alone = alone, []
    for _ in bar:
        pass
    return studies, lost
