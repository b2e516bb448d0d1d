"""Frozen dataclasses ⇄ class paths and plain values, as checkpoints, embeddings and indexes keep them.

A file may only name a class of the kind that is wanted, from mmvae, from an installed plugin, or from a module that the user
named with `trust`. Nothing else is imported and nothing else is called, whatever the file says.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar, get_args, get_type_hints

from mmvae.errors import InputError

T = TypeVar("T")

PLUGINS = "mmvae.modalities"  # the entry-point group of modality plugins

# Class paths that earlier releases wrote → where the class is now.
MOVED = {
    f"mmvae.latent.objective.{name}": f"mmvae.latent.objective.{room}.{name}"
    for name, room in (
        ("ELBO", "elbo"),
        ("IWAE", "importance"),
        ("DReG", "importance"),
        ("TotalCorrelation", "total_correlation"),
        ("Alignment", "alignment"),
        ("Sum", "sum"),
    )
}

_trusted: set[str] = set()


def trust(module: str) -> None:
    """Lets files name classes of this module, and of the modules in it, for the rest of the process."""
    _trusted.add(module)


def trusted_modules() -> set[str]:
    """Modules whose classes a file may name: mmvae, those of installed plugins, and those given to `trust`."""
    plugins = {point.module.split(".")[0] for point in entry_points(group=PLUGINS)}
    return {"mmvae", *plugins, *_trusted}


def to_plain(value: Any) -> dict[str, Any]:
    """A frozen dataclass, and those within it, as `class_path` and `init_args` of plain values.

    >>> from mmvae.latent.fusion import PoE
    >>> to_plain(PoE(prior_expert=False))
    {'class_path': 'mmvae.latent.fusion.PoE', 'init_args': {'prior_expert': False}}
    """

    def plain(item: Any) -> Any:
        if isinstance(item, tuple | list):
            return [plain(each) for each in item]
        return to_plain(item) if dataclasses.is_dataclass(item) else item

    cls = type(value)
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(cls)},
    }


def from_plain(plain: object, kind: type[T]) -> T:
    """The frozen dataclass that `to_plain` wrote.

    Args:
        plain: `class_path` and `init_args`, as read from a file.
        kind: Class that the result must be an instance of.

    Raises:
        InputError: where the class is of another kind, from a module that is not trusted, not installed, or does not take
            the arguments.
    """
    cls = _class_of(plain, (kind,))
    return _instance(cls, plain["init_args"] if isinstance(plain, Mapping) else {})


def _instance(cls: type[T], arguments: object) -> T:
    if not isinstance(arguments, Mapping):
        raise InputError(f"{cls.__name__} has init_args {arguments!r}; expected a value for each field")
    hints = get_type_hints(cls)
    renamed = getattr(cls, "renamed_fields", {})
    known = {renamed.get(name, name): value for name, value in arguments.items()}
    unknown = sorted(set(known) - {f.name for f in dataclasses.fields(cls)})  # type: ignore[arg-type]
    if unknown:
        raise InputError(
            f"{cls.__name__} has no field {unknown[0]!r}; the file was written by another version of {cls.__module__}. "
            "Install that version"
        )
    try:
        return cls(**{name: _fitting(item, hints[name]) for name, item in known.items()})
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{cls.__name__} does not take the values that the file gives it ({error})"
        ) from error


def _fitting(item: object, annotation: object) -> object:
    """A field's value; a whole number stands for a float where one is wanted, as people write it."""
    value = _value(item, _classes_in(annotation))
    return float(value) if annotation is float and type(value) is int else value


def _value(item: object, kinds: tuple[type, ...]) -> object:
    if isinstance(item, Mapping):
        return _instance(_class_of(item, kinds), item.get("init_args"))
    if isinstance(item, list | tuple):
        return tuple(_value(each, kinds) for each in item)
    if item is None or isinstance(item, bool | int | float | str):
        return item
    raise InputError(f"found a {type(item).__name__} in a stored class; expected numbers, words and lists")


def _classes_in(annotation: object) -> tuple[type, ...]:
    """The dataclasses and abstract classes that an annotation speaks of: those that a nested value may be."""
    if isinstance(annotation, type) and not get_args(annotation):
        return () if annotation.__module__ == "builtins" else (annotation,)
    return tuple(cls for part in get_args(annotation) for cls in _classes_in(part))


def _class_of(plain: object, kinds: tuple[type, ...]) -> type[Any]:
    """The class that a file names, once it is known to be one that may be made."""
    path = plain.get("class_path") if isinstance(plain, Mapping) else None
    wanted = " or ".join(kind.__name__ for kind in kinds) or "a plain value"
    if not isinstance(path, str) or "." not in path or not all(p.isidentifier() for p in path.split(".")):
        raise InputError(
            f"found {path!r} as the class_path of a stored class; expected the path of a {wanted}"
        )
    module, name = MOVED.get(path, path).rsplit(".", 1)
    allowed = trusted_modules()
    if not _within(module, allowed):
        raise InputError(
            f"the file names {path}, and {module} is neither part of mmvae nor of an installed plugin: nothing of it was "
            f"imported. Install its distribution or, if you know what it does, trust the module {module.split('.')[0]}",
            "trust",
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the file was made with {path}, which this environment cannot import ({error}); install the distribution that "
            "ships it (`mmvae modalities` lists those installed)"
        ) from error
    frozen = isinstance(cls, type) and getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    if not (frozen and kinds and issubclass(cls, kinds) and _within(cls.__module__, allowed)):
        raise InputError(f"the file names {path}, which is no {wanted}; nothing was made of it")
    return cls


def _within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)
