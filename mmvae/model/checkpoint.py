"""Reading a checkpoint (a file of plain values and tensors), and comparing its settings with those of a run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmvae.errors import InputError
from mmvae.latent.fusion import Fusion
from mmvae.latent.objective import Objective
from mmvae.modality import Modality
from mmvae.plain import from_plain


def read_checkpoint(path: Path, map_location: str) -> dict:
    """The file's content; only plain values are read (`weights_only=True`).

    Raises:
        InputError: naming what is wrong with the file.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; `mmvae fit` writes them into its run folder")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises a dozen types here; all mean that the file is not a checkpoint
        raise InputError(f"{path.name} is not a checkpoint of mmvae ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or "mmvae" not in checkpoint:
        raise InputError(f"{path.name} is not a checkpoint of mmvae: it has no entry 'mmvae'")
    return checkpoint


def refuse_foreign_files(callbacks: Mapping) -> None:
    """Refuses a checkpoint whose callbacks remember as their earlier files what is no checkpoint on this machine.

    A resumed ModelCheckpoint removes those files, folders and addresses too, when a better one is written.

    Raises:
        InputError: naming the file.
    """
    for state in callbacks.values():
        kept = state if isinstance(state, Mapping) else {}
        best = kept.get("best_k_models") or {}
        files = [kept.get(name) for name in ("best_model_path", "kth_best_model_path", "last_model_path")]
        for file in map(str, filter(None, [*files, *best])):
            if "::" in file or "://" in file or ".." in Path(file).parts or not file.endswith(".ckpt"):
                raise InputError(
                    f"the checkpoint says that it replaces {file!r}, which is no checkpoint on this machine; it is damaged or "
                    "hostile, and nothing was removed"
                )


def config_differences(mine: Mapping, theirs: Mapping) -> list[str]:
    """One sentence per `model.*` field in which a run differs from a checkpoint; recipes are compared field by field."""
    differing = [
        f"model.{name} is {mine.get(name)!r}, in the checkpoint {value!r}"
        for name, value in theirs.items()
        if name != "modalities" and not _same(name, mine.get(name), value)
    ]
    for role in sorted({*mine["modalities"], *theirs["modalities"]}):
        a, b = mine["modalities"].get(role), theirs["modalities"].get(role)
        if a is None or b is None:
            differing.append(f"model.modalities.{role} is {'missing' if a is None else 'new'}")
        else:
            fields = unfitted_difference(from_plain(a, Modality), from_plain(b, Modality))
            differing += [f"model.modalities.{role}.{field} differs" for field in fields]
    return differing


def _same(name: str, mine: object, theirs: object) -> bool:
    """Whether two plain values mean the same, including under class paths of an earlier release."""
    kind = {"fusion": Fusion, "objective": Objective}.get(name)
    if kind is None or mine == theirs:
        return mine == theirs
    return from_plain(mine, kind) == from_plain(theirs, kind)


def unfitted_difference(given: Modality, stored: Modality) -> list[str]:
    """Fields in which an unfitted recipe contradicts a fitted one; None in `given` means "to be fitted"."""
    if type(given) is not type(stored):
        return ["class_path"]
    names = [f.name for f in fields(cast(Any, given))]
    pairs = [(name, getattr(given, name), getattr(stored, name)) for name in names]
    return [name for name, mine, theirs in pairs if mine is not None and mine != theirs]


def digest_of(plain: object, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of plain values and named tensors."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
