"""`mmvae new-modality`: a plugin that passes conformance as it stands, to be changed line by line."""

import re
import shutil
from importlib.resources import files
from pathlib import Path

from mmvae.case import InputError


def write_plugin(name: str, out: Path) -> Path:
    """A distribution in `out`: one module, one entry point, one test."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"{name!r} cannot be a modality's name; expected lower-case letters, digits and _, beginning with a letter"
        )
    if out.exists():
        raise InputError(f"{out} exists already; name a folder that does not, or remove it")
    cls = "".join(part.capitalize() for part in name.split("_"))
    beside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / f"mmvae_{name}").mkdir(parents=True)
    (beside / "tests").mkdir()
    templates = files("mmvae") / "templates"
    for template, target in (
        ("pyproject", "pyproject.toml"),
        ("module", f"mmvae_{name}/__init__.py"),
        ("test", f"tests/test_{name}.py"),
    ):
        text = (templates / f"{template}.txt").read_text()
        (beside / target).write_text(text.replace("NAME", name).replace("CLASS", cls))
    beside.rename(out)
    return out
