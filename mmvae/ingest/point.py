"""The frame of a case: the point in patient LPS mm about which it is read, either the lesion or the centre of a series."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmvae.case import Asset, PointMM


def centre_of(affine: NDArray, shape: Sequence[int]) -> PointMM:
    """The centre of a volume (x, y, z[, n]) by its matrix voxel → LPS mm, to a thousandth of a mm."""
    x, y, z, _ = affine @ np.array([*((np.array(shape[:3]) - 1) / 2), 1.0])
    return round(float(x), 3), round(float(y), 3), round(float(z), 3)


def frame_of(
    lesion: PointMM | None,
    assets: Sequence[Asset],
    centres: Mapping[str, PointMM],
    reference: Sequence[str],
) -> tuple[PointMM | None, str | None]:
    """The case's `frame_mm` and `frame_from`: the lesion; else the centre of the first reference kind that the case has;
    else that of its largest volume of a known kind, of its largest volume, of its largest picture.

    Args:
        lesion: The lesion's point in LPS mm, if there is one.
        assets: Assets of the case.
        centres: Centre in LPS mm by uri, of the assets that have a position.
        reference: Kinds in order of preference.
    """
    if lesion is not None:
        return lesion, "lesion"

    def rank(asset: Asset) -> tuple[int, bool, bool, int, str]:
        order = reference.index(asset.kind) if asset.kind in reference else len(reference)
        return order, asset.type != "volume", asset.kind is None, -asset.facts["voxels"], asset.uri

    chosen = min((asset for asset in assets if asset.uri in centres), key=rank, default=None)
    return (None, None) if chosen is None else (centres[chosen.uri], chosen.kind)
