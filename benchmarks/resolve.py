"""What a suite's YAML names → fusions and objectives, as `mmvae fit` would make them."""

from collections.abc import Mapping

from mmvae.latent import fusion, objective
from mmvae.plain import from_plain

ROOMS = {"fusion": fusion.__name__, "objective": objective.__name__}


def plain(written: str | Mapping, room: str) -> dict:
    """`PoE`, or {class_path, init_args}, as a dotted class path and arguments; a name without dots is the library's own."""
    entry = {"class_path": written} if isinstance(written, str) else dict(written)
    path = entry["class_path"]
    inner = {
        key: [plain(one, room) for one in value] if key == "terms" else value
        for key, value in (entry.get("init_args") or {}).items()
    }
    return {"class_path": path if "." in path else f"{ROOMS[room]}.{path}", "init_args": inner}


def made(written: str | Mapping, room: str) -> object:
    """The fusion or objective itself."""
    return from_plain(plain(written, room))


def short(written: str | Mapping, room: str) -> str:
    """What a table calls it: the class and its arguments, e.g. `ELBO(components=sampled)`."""
    entry = plain(written, room)
    inner = ", ".join(
        f"{key}={' + '.join(short(one, room) for one in value) if isinstance(value, list) else value}"
        for key, value in entry["init_args"].items()
    )
    return entry["class_path"].rsplit(".", 1)[-1] + (f"({inner})" if inner else "")
