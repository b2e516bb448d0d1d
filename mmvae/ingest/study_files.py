"""Writes the files of one study's case from its headers, in a worker process; imports nothing heavy."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmvae.case import Asset, PointMM, Value
from mmvae.cohort import read_asset
from mmvae.identity.text import spellings
from mmvae.identity.vault import pseudonym
from mmvae.ingest.dicom.frame import Frame, Header
from mmvae.ingest.dicom.pixels import read_frames
from mmvae.ingest.dicom.stacks import Stack, stacks_of
from mmvae.ingest.dicom.volumes import volume_of
from mmvae.ingest.names import files_field, names_of
from mmvae.ingest.nifti import write_nifti
from mmvae.ingest.notes import Note
from mmvae.ingest.point import centre_of
from mmvae.ingest.reading import headers_in
from mmvae.ingest.skipped import SkippedFile, Unusable
from mmvae.ingest.source import SourceFile
from mmvae.ingest.texts import Cleaning, read_text, write_text_asset


@dataclass(frozen=True)
class StudyTask:
    """All that a worker needs to write one study.

    Args:
        spool: File with its headers, as `reading` stored them.
        root: The cohort's folder.
        case_id: The study's pseudonym, which is the folder's name.
        files: Files of the source, by number.
        shift_days: Number of days by which the patient's dates are shifted.
        reports: Path and F of each report.
        key: The vault's key.
    """

    spool: Path
    root: Path
    case_id: str
    files: Mapping[int, SourceFile]
    shift_days: int
    reports: tuple[tuple[Path, str], ...]
    key: bytes

    def series(self, identifier: str | None) -> str | None:
        """The pseudonym of a series; None if the file names no series."""
        return pseudonym(self.key, "series", "s", identifier) if identifier else None

    def nothing_written(self, why: str) -> "StudyFiles":
        """The result for a study that its worker could not write: every file is left out."""
        shutil.rmtree(self.root / "cases" / self.case_id, ignore_errors=True)
        series_of = {header.file: header.series for header in headers_in(self.spool)}
        skipped = tuple(
            SkippedFile(file.name, self.series(series_of.get(number)), "limit", why)
            for number, file in self.files.items()
        )
        return StudyFiles(skipped=skipped, series=self.identifiers(series_of.values()))

    def identifiers(self, series: Iterable[str]) -> dict[str, str]:
        """SeriesInstanceUIDs by their pseudonyms, for the vault."""
        return {name: uid for uid in series if (name := self.series(uid)) is not None}


@dataclass(frozen=True)
class StudyFiles:
    """The files that were written for a study, and the facts that its cases need.

    Args:
        assets: Assets in the case's folder; their kinds are not assigned yet.
        centres: Centre of each volume in LPS mm, by uri.
        record: Record fields of the patient from the headers.
        points: Lesion points that the study itself marks, in LPS mm.
        skipped: Files that were left out.
        notes: What was used but not beyond doubt.
        series: SeriesInstanceUIDs by pseudonym, for the vault.
        many: F of each file, by the hash that represents them in an asset's `files`.
        identifiers: Identifiers from the headers, to be removed from text elsewhere.
    """

    assets: tuple[Asset, ...] = ()
    centres: Mapping[str, PointMM] = field(default_factory=dict)
    record: Mapping[str, Value] = field(default_factory=dict)
    points: tuple[PointMM, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    series: Mapping[str, str] = field(default_factory=dict)
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    identifiers: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "StudyFiles":
        """What `plain` gave.

        Raises:
            ValueError: or KeyError, TypeError, AttributeError where it was written by another release, or by nobody of ours.
        """
        return cls(
            assets=tuple(read_asset(asset, "a finished study") for asset in plain["assets"]),
            centres={uri: _point(point) for uri, point in plain["centres"].items()},
            record=dict(plain["record"]),
            points=tuple(map(_point, plain["points"])),
            skipped=tuple(SkippedFile(**item) for item in plain["skipped"]),
            series=dict(plain["series"]),
            many={digest: tuple(names) for digest, names in plain["many"].items()},
            identifiers=tuple(plain["identifiers"]),
            notes=tuple(Note(**item) for item in plain["notes"]),
        )


def _point(plain: Any) -> PointMM:
    x, y, z = map(float, plain)
    return x, y, z


def write_study(task: StudyTask) -> StudyFiles:
    """Writes the study's stacks as NIfTI and its documents as text into the case's folder."""
    all_headers = list(headers_in(task.spool))
    names = {name for h in all_headers for name in (*h.identifiers, h.patient, h.accession, h.study)}
    identifiers = tuple(sorted({spelling for name in names for spelling in spellings(name)}))
    headers, skipped = _without_duplicates(all_headers, task)
    folder = task.root / "cases" / task.case_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    volumes = _Volumes(task)
    volumes.write_all(headers)
    texts, unread = _write_texts(task, headers, len(volumes.assets), identifiers)
    record: dict[str, Value] = {}
    for header in headers:
        record = {**header.record, **record}
    reason = "the points that it marks became the case's lesions; it holds no image"
    skipped += [_skipped(task, h, "not_image", reason) for h in headers if h.points]
    skipped += [*volumes.skipped, *unread]
    names_left_out = {item.series for item in skipped}
    left_out = {h.series for h in all_headers if task.series(h.series) in names_left_out}
    return StudyFiles(
        assets=(*volumes.assets, *texts),
        centres=volumes.centres,
        record=record,
        points=tuple(point for h in headers for point in h.points),
        skipped=tuple(skipped),
        series={**volumes.series, **task.identifiers(left_out)},
        many=volumes.many,
        identifiers=identifiers,
    )


def _skipped(task: StudyTask, header: Header, code: str, reason: str) -> SkippedFile:
    return SkippedFile(task.files[header.file].name, task.series(header.series), code, reason)


def _without_duplicates(headers: Sequence[Header], task: StudyTask) -> tuple[list[Header], list[SkippedFile]]:
    """The headers without duplicates: of files with the same SOPInstanceUID, the first by F is kept."""
    first: dict[str, Header] = {}
    unique: list[Header] = []
    skipped: list[SkippedFile] = []
    for header in sorted(headers, key=lambda h: task.files[h.file].name):
        if not header.frames or not header.instance:
            unique.append(header)
            continue
        other = first.setdefault(header.instance, header)
        if other is header:
            unique.append(header)
        else:
            equal = _pixel_bytes(other, task) == _pixel_bytes(header, task)
            same = "the same pixels" if equal else "other pixels; the first by F is kept"
            reason = f"its SOPInstanceUID is also in another file, with {same}"
            skipped.append(_skipped(task, header, "duplicate", reason))
    return sorted(unique, key=lambda h: h.file), skipped


def _pixel_bytes(header: Header, task: StudyTask) -> bytes:
    try:
        planes = read_frames(task.files[header.file].path, header.frames)
    except Unusable:
        return b""
    return b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)


class _Volumes:
    """Writes a study's stacks, and collects what later steps need to know about them."""

    def __init__(self, task: StudyTask):
        self.task = task
        self.assets: list[Asset] = []
        self.centres: dict[str, PointMM] = {}
        self.series: dict[str, str] = {}
        self.many: dict[str, tuple[str, ...]] = {}
        self.skipped: list[SkippedFile] = []

    def write_all(self, headers: Sequence[Header]) -> None:
        """Writes every stack, and records why each remaining frame is in none."""
        series_of = {header.file: header.series for header in headers}
        stacks, unused = stacks_of((header.series, frame) for header in headers for frame in header.frames)
        reasons: dict[tuple[str, str, str], list[Frame]] = defaultdict(list)
        for item in unused:
            reasons[(item.code, item.reason, item.series)].append(item.frame)
        for stack in sorted(stacks, key=lambda stack: min(frame.file for frame in stack.frames)):
            try:
                self._write(stack)
            except Unusable as error:
                for frame in stack.frames:
                    reasons[(error.code, error.reason, series_of[frame.file])].append(frame)
        for (code, reason, series), frames in reasons.items():
            name = self.task.series(series)
            self.skipped += [SkippedFile(f, name, code, reason) for f in names_of(frames, self.task.files)]

    def _write(self, stack: Stack) -> None:
        task = self.task
        array = volume_of(stack, {number: file.path for number, file in task.files.items()})
        uri = f"cases/{task.case_id}/{len(self.assets)}.nii.gz"
        digest = write_nifti(task.root / uri, array, stack.affine)
        joined = "+".join(stack.series)
        series = pseudonym(task.key, "series", "s", joined)
        self.series[series] = joined
        names = names_of(stack.frames, task.files)
        files = files_field(names)
        if isinstance(files, dict):
            self.many[files["sha256"]] = names
        self.centres[uri] = centre_of(stack.affine, array.shape)
        facts = {**stack.facts, "voxels": int(array.size), "series": series}
        self.assets.append(Asset(stack.type, uri, digest, facts=facts, files=files))


def _write_texts(
    task: StudyTask, headers: Sequence[Header], number: int, identifiers: tuple[str, ...]
) -> tuple[list[Asset], list[SkippedFile]]:  # fmt: skip
    """Writes the study's documents and reports as text assets numbered from `number`; also returns unreadable reports."""
    texts = [(header.text, task.files[header.file].name) for header in headers if header.text]
    skipped: list[SkippedFile] = []
    for path, name in task.reports:
        try:
            texts.append((read_text(path), name))
        except Unusable as error:
            skipped.append(SkippedFile(name, None, error.code, error.reason))
    cleaning = Cleaning(identifiers, task.shift_days)
    assets = [
        write_text_asset(task.root, f"cases/{task.case_id}/{number + n}.txt", text, cleaning, (name,))
        for n, (text, name) in enumerate(texts)
    ]
    return assets, skipped
