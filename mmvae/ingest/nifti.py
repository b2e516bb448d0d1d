"""Writes volumes in patient LPS mm as gzipped NIfTI without text in the header, with reproducible bytes."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse


def write_nifti(path: Path, volume: NDArray, affine_lps: NDArray) -> str:
    """Writes (x, y, z) or (x, y, z, n) with the matrix voxel → LPS mm; returns the file's SHA-256.

    Gzip level 1 with mtime 0. The header is new: no description, auxiliary file name, database name or extension.
    """
    import nibabel

    image = nibabel.Nifti1Image(volume, LPS_TO_RAS @ affine_lps)
    image.header.set_xyzt_units("mm")
    image.set_qform(LPS_TO_RAS @ affine_lps, code=1)
    image.set_sform(LPS_TO_RAS @ affine_lps, code=1)
    data = gzip.compress(image.to_bytes(), 1, mtime=0)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
