"""Determines where a file's samples begin and how they are stored (PS3.5 7.1, 8)."""

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from mmvae.ingest.dicom.frame import Pixels
from mmvae.ingest.skipped import Unusable

# The decoded pixels may exceed the file's size by at most this; a header can promise more than any memory holds.
LARGEST_GROWTH_BYTES = 1 << 30


@dataclass(frozen=True)
class PixelData:
    """The position in a file at which its header ends.

    Args:
        offset: Offset of the first byte after the header.
        head: The first bytes from there: tag, VR and length of the PixelData element.
        file_bytes: Size of the file.
    """

    offset: int
    head: bytes
    file_bytes: int

    def start(self, needed: int) -> int | None:
        """Offset at which the samples begin (PS3.5 7.1); None if they are encapsulated.

        Raises:
            Unusable: if fewer than `needed` bytes follow.
        """
        if self.head[:4] != b"\xe0\x7f\x10\x00":
            raise Unusable("truncated", "no PixelData follows the header")
        length_at = 8 if self.head[4:6].isalpha() and self.head[4:6].isupper() else 4
        length = int.from_bytes(self.head[length_at : length_at + 4], "little")
        start = self.offset + length_at + 4
        if length == 0xFFFFFFFF:
            return None
        if self.file_bytes - start < needed:
            available = max(0, self.file_bytes - start)
            raise Unusable("truncated", f"{needed} bytes of pixels are promised, {available} are there")
        return start


def pixels_of(data: Dataset, meta: Dataset, element: PixelData) -> Pixels:
    """How the file's samples are stored.

    Raises:
        Unusable: if the header contradicts itself, or promises more than the file holds or the limit allows.
    """
    rows, columns, samples = int(data.Rows), int(data.Columns), int(data.get("SamplesPerPixel") or 1)
    frames, allocated = int(data.get("NumberOfFrames") or 1), int(data.get("BitsAllocated") or 0)
    syntax = UID(str(meta.get("TransferSyntaxUID") or "1.2.840.10008.1.2"))
    if not (rows > 0 and columns > 0 and frames > 0):
        raise Unusable(
            "not_image", f"Rows {rows}, Columns {columns}, NumberOfFrames {frames}: expected positive numbers"
        )
    if "FloatPixelData" not in data and allocated not in (1, 8, 16, 32):
        raise Unusable("not_image", f"BitsAllocated is {allocated}, expected 8, 16 or 32")
    needed = rows * columns * samples * frames * max(1, allocated // 8)
    if needed > LARGEST_GROWTH_BYTES + element.file_bytes:
        raise Unusable(
            "limit",
            f"the header promises {needed / 2**30:.1f} GiB of pixels, over {LARGEST_GROWTH_BYTES >> 30} GiB more than the file's size",
        )
    stored = int(data.get("BitsStored") or allocated)
    high = int(data.get("HighBit") if data.get("HighBit") is not None else stored - 1)
    signed = bool(int(data.get("PixelRepresentation") or 0))
    plain = syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
    start = element.start(needed) if plain else None
    return Pixels(rows, columns, samples, allocated, stored, high, signed, str(syntax), start, frames)
