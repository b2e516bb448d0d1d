"""Writes the plugin of `mmvae new-modality`, which passes the conformance checks as written and is meant to be edited."""

import re
from importlib.resources import files
from pathlib import Path

from mmvae.atomic import new_folder
from mmvae.errors import InputError


def write_plugin(name: str, out: Path) -> Path:
    """Writes a distribution to `out`, with one module, one entry point and one test."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"{name!r} cannot be a modality's name; expected lower-case letters, digits and _, beginning with a letter"
        )
    cls = "".join(part.capitalize() for part in name.split("_"))
    templates = files("mmvae.testing") / "templates"
    with new_folder(out) as folder:
        (folder / f"mmvae_{name}").mkdir()
        (folder / "tests").mkdir()
        for template, target in (
            ("pyproject", "pyproject.toml"),
            ("module", f"mmvae_{name}/__init__.py"),
            ("test", f"tests/test_{name}.py"),
        ):
            text = (templates / f"{template}.txt").read_text()
            (folder / target).write_text(text.replace("NAME", name).replace("CLASS", cls))
    return out
