"""Observations as read, kept by content beside the case, so that a volume is resampled once."""

import dataclasses
import hashlib
import inspect
import io
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from mmvae.atomic import write_atomically
from mmvae.batch import Observation
from mmvae.case import View
from mmvae.discovery import origin_of
from mmvae.modality import Modality
from mmvae.plain import to_plain


@cache
def _source_hash(cls: type) -> str:
    """Hash of the source of every module of the class's own package, so that editing `read` never gives stale data."""
    package = cls.__module__.split(".")[0]
    digest = hashlib.sha256()
    for name in sorted(n for n in sys.modules if n.split(".")[0] == package or n == "mmvae.volume"):
        if package == "mmvae" and name not in (cls.__module__, "mmvae.volume"):
            continue
        try:
            digest.update(inspect.getsource(sys.modules[name]).encode())
        except (OSError, TypeError):
            continue  # a namespace package or a class from an interactive session has no file
    return digest.hexdigest()


def key_of(recipe: Modality, view: View) -> str:
    """Hash of the recipe, its plugin's version and source, and all that the view holds."""
    content = {
        "recipe": to_plain(recipe),
        "origin": origin_of(recipe),
        "source": _source_hash(type(recipe)),
        "assets": [(a.sha256, dict(a.facts)) for a in view.assets],
        "record": dict(view.record),
        "terms": view.terms,
        "labels": dict(view.labels),
        "lesion": view.lesion and dataclasses.asdict(view.lesion),
        "frame": view.frame_mm,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def read_cached(recipe: Modality, view: View, folder: Path | None) -> Observation:
    """`recipe.read(view)`, from the folder where it was read before; only what has assets is worth keeping.

    Value and mask are one plain array file each, no pickle; they appear by rename. A folder that cannot be written is
    no error: the observation is read each time.
    """
    if folder is None or not view.assets:
        return recipe.read(view)
    path = folder / f"{key_of(recipe, view)}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as kept:
                return Observation(
                    torch.from_numpy(kept["value"].astype(np.float32)), torch.from_numpy(kept["mask"])
                )
        except (OSError, ValueError, KeyError, EOFError):
            path.unlink(missing_ok=True)
    observation = recipe.read(view)
    buffer = io.BytesIO()
    np.savez(buffer, value=observation.value.numpy(), mask=observation.mask.numpy())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError:
        return observation
    return observation
