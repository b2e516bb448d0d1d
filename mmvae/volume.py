"""The address until 0.1 of `mmvae.blocks`, for plugins written for it."""

from mmvae.blocks.geometry import grid_affine, load_nifti, move, resample, vary_intensity
from mmvae.blocks.networks import PRESETS, Preset, VolumeDecoder, VolumeEncoder
from mmvae.blocks.pictures import montage, native_slice

__all__ = [
    "PRESETS", "Preset", "VolumeDecoder", "VolumeEncoder", "grid_affine", "load_nifti", "montage", "move", "native_slice",
    "resample", "vary_intensity",
]  # fmt: skip
