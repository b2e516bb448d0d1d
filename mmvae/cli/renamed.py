"""Reads configurations of earlier releases, in which some fields of recipes have other names."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from mmvae.modality import Modality


@contextmanager
def old_names_are_read() -> Iterator[None]:
    """A context in which the parser accepts a recipe's old field names (`Modality.renamed_fields`)."""
    load = get_loader("yaml")
    set_loader("yaml", lambda text: renamed(load(text)), (yaml.YAMLError,))
    try:
        yield
    finally:
        set_loader("yaml", load, (yaml.YAMLError,))


def renamed(plain: Any) -> Any:
    """The plain values with today's names for the arguments of each recipe."""
    if isinstance(plain, list):
        return [renamed(value) for value in plain]
    if not isinstance(plain, dict):
        return plain
    plain = {key: renamed(value) for key, value in plain.items()}
    if isinstance(plain.get("init_args"), dict):
        names = _renamed_fields(str(plain.get("class_path")))
        plain["init_args"] = {names.get(key, key): value for key, value in plain["init_args"].items()}
    return plain


def _renamed_fields(path: str) -> Mapping[str, str]:
    """New field name by old one, of the loaded recipe with this path or short name; empty if there is none."""
    kinds = [Modality]
    for kind in kinds:
        if path in (kind.__name__, f"{kind.__module__}.{kind.__qualname__}"):
            return kind.renamed_fields
        kinds += kind.__subclasses__()
    return {}
