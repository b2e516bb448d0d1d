"""Reads one file that is not DICOM (NIfTI, .npz or a picture): its array, matrix to patient mm and type."""

import gzip
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmvae.ingest.nifti import LPS_TO_RAS
from mmvae.ingest.skipped import Unusable
from mmvae.ingest.table.map import AssetRule

_PICTURES = (".png", ".jpg", ".jpeg")


def read_volume(path: Path, member: str | None, rule: AssetRule) -> tuple[NDArray, NDArray, str]:
    """Volume (x, y, z[, n]), its matrix to LPS mm, and the asset's type.

    Args:
        path: Path of the file.
        member: Name of the array in an .npz.
        rule: Supplies what the file does not say, such as the spacing.

    Raises:
        Unusable: naming why it cannot be read.
    """
    array, affine, kind = _read(path, member, rule)
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


def _read(path: Path, member: str | None, rule: AssetRule) -> tuple[NDArray, NDArray, str]:
    """The file's array as stored, read by its suffix, with matrix and type."""
    from nibabel.filebasedimages import ImageFileError

    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            return *_nifti(path), "volume"
        scaled = np.diag([*(rule.spacing_mm or (1.0, 1.0, 1.0)), 1.0])
        if name.endswith(".npz"):
            return _npz(path, member), scaled, "volume"
        if name.endswith(_PICTURES):
            return _picture(path), scaled, "image"
    except (EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise Unusable("truncated", f"the file does not decompress ({type(error).__name__})") from error
    except (OSError, ValueError, ImageFileError) as error:
        if name.endswith(".gz") and not _decompresses(path):
            raise Unusable("truncated", "the file ends before its compressed data") from error
        raise Unusable(
            "not_image", f"the file cannot be read as {path.suffix} ({type(error).__name__})"
        ) from error
    raise Unusable(
        "not_image", f"the suffix {path.suffix!r} is not one of .nii, .nii.gz, .npz, .png, .jpg, .txt"
    )


def _nifti(path: Path) -> tuple[NDArray, NDArray]:
    """Stored integers if the file has no scaling, else float32; and the matrix to LPS mm."""
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.loadsave import load
    from nibabel.spatialimages import SpatialImage

    image = load(path)
    if not isinstance(image, SpatialImage) or image.affine is None:
        raise Unusable("no_position", "the file holds no matrix from voxels to mm")
    proxy = image.dataobj
    scaled = isinstance(proxy, ArrayProxy) and (
        proxy.slope not in (1.0, None) or proxy.inter not in (0.0, None)
    )
    array = np.asarray(proxy, np.float32) if scaled else np.asanyarray(proxy)
    return array, LPS_TO_RAS @ image.affine


def _npz(path: Path, member: str | None) -> NDArray:
    """An array stored as (slice, row, column); columns are assumed to run left, rows back and slices up, and the card says so."""
    with np.load(path, allow_pickle=False) as arrays:
        array = arrays[member]
    if array.ndim == 3:
        return array.transpose(2, 1, 0)
    return array.T[:, :, None] if array.ndim == 2 else array


def _picture(path: Path) -> NDArray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")).T[:, :, None]


def read_signal(path: Path, member: str | None) -> NDArray:
    """An array of an .npz as float32, samples first.

    Raises:
        Unusable: naming why it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.ascontiguousarray(arrays[member], dtype=np.float32)
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
