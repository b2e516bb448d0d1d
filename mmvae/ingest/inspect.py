"""Files of a source → headers, in a process that may die of them; imports nothing heavy, since each worker starts anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmvae.ingest.dicom import Header, Memory, read_header
from mmvae.ingest.pixels import read_frames
from mmvae.ingest.skipped import Unusable


@dataclass(frozen=True)
class SourceFile:
    """A file of the source: where it is read, and its path relative to the source (`archive.zip/member` in a zip)."""

    number: int
    path: Path
    relative: str
    name: str


def inspect(files: Sequence[SourceFile]) -> list[Header | tuple[int, str, str]]:
    """Each file's header, its pixels decoded once where a codec is needed; or number, code and sentence."""
    made: list[Header | tuple[int, str, str]] = []
    memory = Memory()
    for one in files:
        try:
            header = read_header(one.path, one.number, memory)
            if header.frames and header.frames[0].pixels.offset is None:
                read_frames(one.path, list(header.frames[:1]))
            made.append(header)
        except Unusable as error:
            made.append((one.number, error.code, error.reason))
    return made
