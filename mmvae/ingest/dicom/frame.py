"""The data types of a parsed DICOM file: its header, its image planes, and how their samples are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmvae.case import PointMM, Value


@dataclass(frozen=True)
class Pixels:
    """How a frame's samples are stored, enough to read uncompressed ones without a second parse."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str
    offset: int | None
    frames: int


@dataclass(frozen=True)
class Frame:
    """One image plane.

    Args:
        file: Number of its file in the scan.
        number: Number of the frame in its file, from 0.
        pixels: How its samples are stored.
        position: Patient LPS mm of the first sample's centre.
        orientation: Two unit vectors: along a row (increasing column), then down a column.
        spacing: (row step, column step) in mm, as PixelSpacing.
        slope: Factor from stored to modality value.
        intercept: Added after the slope.
        facts: Numbers and codes that may leave the header.
        b_value: b-value in s/mm²; None if nothing says that the frame is diffusion-weighted.
        time_s: Seconds since midnight of the acquisition, or None.
        order: Further numbers that sort the repetitions of a position.
        tile: (top, left, rows, columns) of a mosaic's tile, else None.
        picture: Whether it is a projection, which has no position in the patient; position and orientation are then nominal.
    """

    file: int
    number: int
    pixels: Pixels
    position: PointMM
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    slope: float
    intercept: float
    facts: Mapping[str, Any]
    b_value: float | None
    time_s: float | None
    order: tuple[float, ...]
    tile: tuple[int, int, int, int] | None = None
    picture: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the plane."""
        return (self.tile[2], self.tile[3]) if self.tile else (self.pixels.rows, self.pixels.columns)


@dataclass(frozen=True)
class Header:
    """A file: the identifiers that group it (which never leave ingest), and its frames, text or points."""

    file: int
    study: str
    series: str
    instance: str
    patient: str
    accession: str
    identifiers: frozenset[str]
    frames: tuple[Frame, ...] = ()
    text: str | None = None
    record: Mapping[str, Value] = field(default_factory=dict)
    points: tuple[PointMM, ...] = ()
