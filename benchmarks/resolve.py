"""Fusions and objectives from the names in a suite's YAML, as `mmvae fit` would build them."""

from collections.abc import Mapping
from typing import Any

from mmvae.latent import fusion as fusions
from mmvae.latent import objective as objectives
from mmvae.latent.fusion import Fusion
from mmvae.latent.objective import Objective
from mmvae.plain import from_plain

ROOMS = {"fusion": fusions.__name__, "objective": objectives.__name__}


def plain(entry: str | Mapping, room: str) -> dict[str, Any]:
    """`PoE`, or {class_path, init_args}, as a dotted class path and arguments; a name without dots is the library's own."""
    named: dict[str, Any] = {"class_path": entry} if isinstance(entry, str) else dict(entry)
    path = named["class_path"]
    arguments = {
        key: [plain(term, room) for term in value] if key == "terms" else value
        for key, value in (named.get("init_args") or {}).items()
    }
    return {"class_path": path if "." in path else f"{ROOMS[room]}.{path}", "init_args": arguments}


def fusion(entry: str | Mapping) -> Fusion:
    """The fusion that an entry names."""
    return from_plain(plain(entry, "fusion"), Fusion)


def objective(entry: str | Mapping) -> Objective:
    """The objective that an entry names."""
    return from_plain(plain(entry, "objective"), Objective)


def short(entry: str | Mapping, room: str) -> str:
    """What a table calls it: the class and its arguments, e.g. `ELBO(components=sampled)`."""
    named = plain(entry, room)
    arguments = ", ".join(
        f"{key}={' + '.join(short(term, room) for term in value) if isinstance(value, list) else value}"
        for key, value in named["init_args"].items()
    )
    return named["class_path"].rsplit(".", 1)[-1] + (f"({arguments})" if arguments else "")
