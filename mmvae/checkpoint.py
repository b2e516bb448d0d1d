"""What a checkpoint is: a file of plain values and tensors that names its model, and when two of them are one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmvae.case import InputError
from mmvae.modality import from_plain, unfitted_difference


def read_checkpoint(path: Path, map_location: str) -> dict:
    """The file's content; plain values only are read (`weights_only=True`).

    Raises:
        InputError: naming what is wrong with the file.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; `mmvae fit` writes them into its run folder")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises a dozen types here; all mean that the file is no checkpoint
        raise InputError(f"{path.name} is not a checkpoint of mmvae ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or "mmvae" not in checkpoint:
        raise InputError(f"{path.name} is not a checkpoint of mmvae: it has no entry 'mmvae'")
    return checkpoint


def config_differences(mine: Mapping, theirs: Mapping) -> list[str]:
    """A sentence for each `model.*` field in which a run differs from a checkpoint's; recipes are compared field by field."""
    differing = [
        f"model.{name} is {mine.get(name)!r}, the checkpoint's {value!r}"
        for name, value in theirs.items()
        if name != "modalities" and mine.get(name) != value
    ]
    for role in sorted({*mine["modalities"], *theirs["modalities"]}):
        a, b = mine["modalities"].get(role), theirs["modalities"].get(role)
        if a is None or b is None:
            differing.append(f"model.modalities.{role} is {'missing' if a is None else 'new'}")
        elif a != b:
            fields = unfitted_difference(from_plain(a), from_plain(b)) or ["class_path"]
            differing += [f"model.modalities.{role}.{field} differs" for field in fields]
    return differing


def digest_of(plain: object, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of plain values and named tensors."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
