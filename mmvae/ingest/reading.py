"""Reads the headers of files in worker processes that may crash, and collects them on disk by study."""

import hashlib
import os
import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmvae.ingest.dicom.frame import Header
from mmvae.ingest.dicom.header import Memory, read_header
from mmvae.ingest.dicom.pixels import read_frames
from mmvae.ingest.progress import Progress
from mmvae.ingest.skipped import Unusable
from mmvae.ingest.source import SourceFile
from mmvae.ingest.workers import TaskFailure, Workers

CHUNK = 64
SECONDS_PER_FILE = 5.0
MEMORY = 1 << 30


@dataclass
class Study:
    """What is known of a study while its files are read: identifiers for the vault, its files, and where its headers are stored.

    Args:
        uid: StudyInstanceUID; `file` and the file's path if a header has none.
        spool: File of pickled lists of headers, in the order in which they were read.
        files: Numbers of its files.
        patients: PatientIDs found in its headers.
        accessions: AccessionNumbers found in its headers.
        first: The first of its files' paths in alphabetical order.
    """

    uid: str
    spool: Path
    files: list[int] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)
    accessions: set[str] = field(default_factory=set)
    first: str = "~"

    def add(self, header: Header, file: SourceFile) -> None:
        """Adds one of its files."""
        self.files.append(header.file)
        self.patients.add(header.patient)
        self.accessions.add(header.accession)
        self.first = min(self.first, file.relative)

    def append_headers(self, headers: Sequence[Header]) -> None:
        """Appends headers to the spool on disk."""
        with self.spool.open("ab") as stream:
            pickle.dump(list(headers), stream)

    @property
    def names(self) -> list[str]:
        """The identifiers by which tables and reports may refer to it, sorted."""
        return sorted((self.patients | self.accessions) - {""})


@dataclass(frozen=True)
class UnusableFile:
    """A file whose header cannot be used: its number, code and reason, and its series if that could be read."""

    number: int
    code: str
    reason: str
    series: str | None = None


def inspect(files: Sequence[SourceFile]) -> list[Header | UnusableFile]:
    """Each file's header, or why it cannot be used; pixels that need a codec are decoded once to test them."""
    headers: list[Header | UnusableFile] = []
    memory = Memory()
    for file in files:
        try:
            header = read_header(file.path, file.number, memory)
            if header.frames and header.frames[0].pixels.offset is None:
                try:
                    read_frames(file.path, list(header.frames[:1]))
                except Unusable as error:
                    error.series = header.series or None
                    raise
            headers.append(header)
        except Unusable as error:
            headers.append(UnusableFile(file.number, error.code, error.reason, error.series))
    return headers


def headers_in(spool: Path) -> Iterator[Header]:
    """The headers that `read_studies` stored in a study's spool."""
    with spool.open("rb") as stream:
        while True:
            try:
                yield from pickle.load(stream)
            except EOFError:
                return


def _file_bytes(path: Path) -> int:
    """Size of a file in bytes; 0 if it cannot be determined, in which case reading it will report the error."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def read_studies(
    files: Sequence[SourceFile], work: Path, workers: Workers, progress: Progress
) -> tuple[dict[str, Study], list[UnusableFile]]:  # fmt: skip
    """Studies by StudyInstanceUID, and the files that cannot be used; headers are stored on disk so that memory stays flat.

    Args:
        files: Files of the source.
        work: Folder for the headers.
        workers: Processes that read.
        progress: Wraps an iterator over the files.
    """
    studies: dict[str, Study] = {}
    unusable: list[UnusableFile] = []
    ticks = iter(progress(range(len(files)), len(files)))
    chunks = [tuple(files[i : i + CHUNK]) for i in range(0, len(files), CHUNK)]
    for chunk, answers in _inspected(chunks, workers):
        by_study: dict[str, list[Header]] = defaultdict(list)
        for file, answer in zip(chunk, answers):
            next(ticks, None)
            if isinstance(answer, UnusableFile):
                unusable.append(answer)
                continue
            uid = answer.study or f"file {file.relative}"
            if uid not in studies:
                name = hashlib.sha256(os.fsencode(uid)).hexdigest()[:24]
                studies[uid] = Study(uid, work / f"{name}.headers")
            studies[uid].add(answer, file)
            by_study[uid].append(answer)
        for uid, headers in by_study.items():
            studies[uid].append_headers(headers)
    for _ in ticks:
        pass
    return studies, unusable


def _inspected(
    chunks: Sequence[tuple[SourceFile, ...]], workers: Workers
) -> Iterator[tuple[tuple[SourceFile, ...], list[Header | UnusableFile]]]:  # fmt: skip
    """Each chunk with its headers; if a chunk's process died, its files are tried again one by one."""
    sized = ((chunk, 2 * max(_file_bytes(f.path) for f in chunk)) for chunk in chunks)
    alone: list[tuple[SourceFile, ...]] = []
    for chunk, answer in workers.run(inspect, sized, lambda c: SECONDS_PER_FILE * len(c), MEMORY):
        if not isinstance(answer, TaskFailure):
            yield chunk, answer
            continue
        answer.refuse_full_disk()
        if len(chunk) > 1:
            alone += [(file,) for file in chunk]
        else:
            reason = f"reading the file in a worker process: {answer.why}"
            yield chunk, [UnusableFile(file.number, "limit", reason) for file in chunk]
    if alone:
        yield from _inspected(alone, workers)
