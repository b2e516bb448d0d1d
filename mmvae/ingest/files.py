"""One file that is no DICOM → array, matrix to patient mm and type."""

import gzip
import zipfile
import zlib
from pathlib import Path

import numpy as np

from mmvae.ingest.mapping import AssetRule
from mmvae.ingest.skipped import Unusable

_PICTURES = (".png", ".jpg", ".jpeg")


def read_volume(path: Path, member: str | None, rule: AssetRule) -> tuple[np.ndarray, np.ndarray, str]:
    """Volume (x, y, z[, n]), its matrix to LPS mm, and the asset's type.

    Raises:
        Unusable: naming why it cannot be read.
    """
    import nibabel

    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            image = nibabel.load(path)
            scaled = image.dataobj.slope not in (1.0, None) or image.dataobj.inter not in (0.0, None)
            array = np.asarray(image.dataobj, np.float32) if scaled else np.asanyarray(image.dataobj)
            affine, kind = flip @ image.affine, "volume"
        elif name.endswith(".npz"):
            with np.load(path, allow_pickle=False) as held:
                array = held[member]
            # (slice, row, column) as stored; column runs to the left, row to the back, slice up: an assumption, stated.
            array = (
                array.transpose(2, 1, 0)
                if array.ndim == 3
                else array.T[:, :, None]
                if array.ndim == 2
                else array
            )
            affine, kind = np.diag([*(rule.spacing_mm or (1.0, 1.0, 1.0)), 1.0]), "volume"
        elif name.endswith(_PICTURES):
            from PIL import Image

            with Image.open(path) as picture:
                array = np.asarray(picture.convert("L")).T[:, :, None]
            affine, kind = np.diag([*(rule.spacing_mm or (1.0, 1.0, 1.0)), 1.0]), "image"
        else:
            raise Unusable(
                "not_image", f"the suffix {path.suffix!r} is none of .nii, .nii.gz, .npz, .png, .jpg, .txt"
            )
    except (EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise Unusable("truncated", f"the file does not decompress ({type(error).__name__})") from error
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        if name.endswith(".gz") and not _decompresses(path):
            raise Unusable("truncated", "the file ends before its compressed data do") from error
        raise Unusable(
            "not_image", f"the file cannot be read as {path.suffix} ({type(error).__name__})"
        ) from error
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise Unusable(
            "not_image", f"the array has shape {array.shape}; expected 3 or 4 dimensions, none of them 0"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise Unusable("no_position", "the matrix from voxels to mm cannot be inverted")
    if array.dtype.kind not in "iuf":
        raise Unusable("not_image", f"the array's type is {array.dtype}, expected numbers")
    if array.dtype.kind == "f":
        array = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    elif array.dtype.itemsize == 8:
        array = array.astype(np.int32)
    return array, affine, kind


def read_signal(path: Path, member: str | None) -> np.ndarray:
    """An array of an .npz as float32, samples first.

    Raises:
        Unusable: naming why it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return np.ascontiguousarray(held[member], dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise Unusable(
            "not_image", f"the signal cannot be read from an .npz#array ({type(error).__name__})"
        ) from error


def _decompresses(path: Path) -> bool:
    try:
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True
