"""Decodes a frame's stored samples, by well-maintained codecs; uncompressed samples are read directly from the file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_decoder  # pyright: ignore[reportPrivateImportUsage] - documented, not marked as exported
from pydicom.uid import UID

from mmvae.ingest.dicom.dataset import read_whole
from mmvae.ingest.dicom.frame import Frame, Pixels
from mmvae.ingest.dicom.header import quiet
from mmvae.ingest.skipped import Unusable


def read_frames(path: Path, frames: Sequence[Frame]) -> list[NDArray]:
    """The stored samples (rows, columns) of some frames of one file; no slope is applied.

    Raises:
        Unusable: if the samples cannot be decoded.
    """
    pixels = frames[0].pixels
    planes = (
        _plain(path, pixels, pixels.offset, frames)
        if pixels.offset is not None and pixels.bits_allocated in (8, 16)
        else dict(enumerate(_decoded(path, pixels)))
    )
    samples = []
    for frame in frames:
        plane = planes[frame.number if frame.tile is None else 0]
        if frame.tile is not None:
            top, left, rows, columns = frame.tile
            plane = plane[top : top + rows, left : left + columns]
        samples.append(plane)
    return samples


def _plain(path: Path, pixels: Pixels, offset: int, frames: Sequence[Frame]) -> dict[int, NDArray]:
    """Little-endian samples at a known offset, read only for these frames."""
    kind = np.dtype("<u2" if pixels.bits_allocated == 16 else "u1")
    count = pixels.rows * pixels.columns
    planes = {}
    with path.open("rb") as stream:
        for number in sorted({0 if f.tile is not None else f.number for f in frames}):
            stream.seek(offset + number * count * kind.itemsize)
            raw = stream.read(count * kind.itemsize)
            if len(raw) < count * kind.itemsize:
                raise Unusable(
                    "truncated", f"{count * kind.itemsize} bytes of pixels are promised, {len(raw)} are there"
                )
            planes[number] = _cleaned(np.frombuffer(raw, kind).reshape(pixels.rows, pixels.columns), pixels)
    return planes


def _cleaned(samples: NDArray, pixels: Pixels) -> NDArray:
    """The samples with bits outside BitsStored removed (overlays and garbage, PS3.5 8.1.1) and the sign extended."""
    stored, high, allocated = pixels.bits_stored, pixels.high_bit, pixels.bits_allocated
    if not (0 < stored <= allocated and stored - 1 <= high < allocated):
        stored, high = allocated, allocated - 1
    if stored < allocated:
        samples = (samples >> (high - stored + 1)) & ((1 << stored) - 1)
    wide = samples.astype(np.int32)
    if pixels.signed:
        sign = 1 << (stored - 1)
        wide = (wide ^ sign) - sign
    return _narrow(wide)


def _narrow(plane: NDArray) -> NDArray:
    """The plane as int16 if every value fits, else as int32."""
    fits = plane.size == 0 or (plane.min() >= -32768 and plane.max() <= 32767)
    return plane.astype(np.int16 if fits else np.int32)


def decodes(syntax: str) -> bool:
    """Whether an installed codec reads this transfer syntax; pydicom raises for a syntax that it does not know."""
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


# Codecs that refuse broken pixels with an error come first; an assertion in gdcm ends the process.
_CODECS = ("pydicom", "pyjpegls", "pylibjpeg", "gdcm", "pillow")


def _codec(syntax: str) -> str:
    """The preferred installed codec of a transfer syntax, or "" if there is none."""
    return min(get_decoder(UID(syntax)).available_plugins, key=_CODECS.index, default="")


def _decoded(path: Path, pixels: Pixels) -> list[NDArray]:
    try:
        with quiet():
            data = read_whole(path)
            if UID(pixels.syntax).is_encapsulated:
                data.pixel_array_options(decoding_plugin=_codec(pixels.syntax))
            array = data.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # each codec has exceptions of its own
        code = "truncated" if decodes(pixels.syntax) else "no_decoder"
        raise Unusable(
            code, f"the pixels of transfer syntax {pixels.syntax} cannot be decoded ({type(error).__name__})"
        ) from error
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1:] != (pixels.rows, pixels.columns) or len(array) < pixels.frames:
        raise Unusable(
            "truncated",
            f"decoded to shape {array.shape}, the header says {pixels.frames} × {pixels.rows} × {pixels.columns}",
        )
    if array.dtype.kind == "f":
        return list(array)
    if (
        pixels.bits_stored < pixels.bits_allocated
        and not pixels.signed
        and pixels.high_bit == pixels.bits_stored - 1
    ):
        array = array & np.array((1 << pixels.bits_stored) - 1, array.dtype)
    return [_narrow(plane) for plane in array]
