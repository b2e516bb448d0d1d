"""A disk cache of observations, keyed by a hash of all that they depend on, so that a volume is resampled only once."""

import dataclasses
import hashlib
import io
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

import mmvae.blocks
from mmvae.atomic import write_atomically
from mmvae.batch import Observation
from mmvae.case import View
from mmvae.discovery import origin_of
from mmvae.modality import Modality
from mmvae.plain import to_plain


@cache
def _source_hash(cls: type) -> str:
    """Hash of the source of the class's own package and of the building blocks, so that editing `read` gives no stale data."""
    digest = hashlib.sha256()
    for path in _sources(cls):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _sources(cls: type) -> list[Path]:
    """The files on which what a class reads depends, the same whatever has been imported so far."""
    package = cls.__module__.split(".")[0]
    # A class of mmvae itself depends on its own file; what else the package holds is not about it.
    own = _files_of(cls.__module__ if package == "mmvae" else package)
    return [*own, *_files_of(mmvae.blocks.__name__)]


def _files_of(module: str) -> list[Path]:
    """The Python files of a package, or a module's own; none for a class from an interactive session."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return []
    path = Path(file)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


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
    """`recipe.read(view)`, or the result cached by an earlier call; a view without assets is not cached.

    Value and mask are stored in one file of plain arrays (no pickle), written atomically. A folder that cannot be written
    is not an error: the observation is then read each time.

    Args:
        recipe: A fitted recipe.
        view: The view that it reads.
        folder: Folder of the cache; None disables caching.
    """
    if folder is None or not view.assets:
        return recipe.read(view)
    path = folder / f"{key_of(recipe, view)}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return Observation(
                    torch.from_numpy(arrays["value"].astype(np.float32)), torch.from_numpy(arrays["mask"])
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
