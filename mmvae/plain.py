"""Converts frozen dataclasses to and from class paths and plain values, as checkpoints, embeddings and indexes store them.

A file may only name a class of the expected kind, from mmvae, from an installed plugin, or from a module that the user
named with `trust`. Nothing else is imported and nothing else is called, whatever the file says.
"""

import dataclasses
import importlib
import types
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mmvae.errors import InputError

T = TypeVar("T")

PLUGINS = "mmvae.modalities"  # the entry-point group of modality plugins
DEEPEST = 16  # nesting levels of classes and lists; a file that nests deeper was written to do harm

_ROOMS = {  # module until 0.1 → {module now: names}
    "mmvae.latent.objective": {
        "mmvae.latent.objective.elbo": ("ELBO",),
        "mmvae.latent.objective.importance": ("IWAE", "DReG"),
        "mmvae.latent.objective.total_correlation": ("TotalCorrelation",),
        "mmvae.latent.objective.alignment": ("Alignment",),
        "mmvae.latent.objective.sum": ("Sum",),
    },
    "mmvae.case": {
        "mmvae.cohort": ("Cohort", "write_cohort"),
        "mmvae.splits": ("Split", "Splits", "draw_splits"),
    },
    "mmvae.modality": {"mmvae.views": ("view_of",)},
    "mmvae.answer": {"mmvae.blocks.answers": ("AnswerDecoder",)},
    "mmvae.volume": {
        "mmvae.blocks.geometry": ("grid_affine", "load_nifti", "move", "resample", "vary_intensity"),
        "mmvae.blocks.networks": ("PRESETS", "Preset", "VolumeDecoder", "VolumeEncoder"),
        "mmvae.blocks.pictures": ("montage", "native_slice"),
    },
    "mmvae.retrieval.evaluate": {"mmvae.evaluation.evaluate": ("evaluate",)},
}
# Import paths of release 0.1, which stored files and scripts may name → today's paths.
MOVED = {
    f"{before}.{name}": f"{now}.{name}"
    for before, rooms in _ROOMS.items()
    for now, names in rooms.items()
    for name in names
}

_trusted: set[str] = set()


def trust(module: str) -> None:
    """Lets files name classes of this module and its submodules, for the rest of the process."""
    _trusted.add(module)


def trusted_modules() -> set[str]:
    """Modules whose classes a file may name: mmvae, those of installed plugins, and those given to `trust`.

    >>> "mmvae" in trusted_modules(), "os" in trusted_modules()
    (True, False)
    """
    plugins = {point.module.split(".")[0] for point in entry_points(group=PLUGINS)}
    return {"mmvae", *plugins, *_trusted}


def moved(module: str, name: str) -> Any:
    """What was at `module.name` until release 0.1, for the `__getattr__` of a module that scripts and plugins still name.

    >>> moved("mmvae.case", "Cohort").__module__
    'mmvae.cohort'
    """
    path = MOVED.get(f"{module}.{name}")
    if path is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    room, _, name = path.rpartition(".")
    return getattr(importlib.import_module(room), name)


def to_plain(value: Any) -> dict[str, Any]:
    """A frozen dataclass, including nested ones, as `class_path` and `init_args` of plain values.

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
        InputError: if the class is of another kind, from a module that is not trusted, or not installed, or if the
            arguments do not match its fields.

    >>> from mmvae.latent.fusion import Fusion
    >>> from_plain({"class_path": "mmvae.latent.fusion.PoE", "init_args": {"prior_expert": False}}, Fusion)
    PoE(prior_expert=False)
    >>> from_plain({"class_path": "os.system", "init_args": {"command": "true"}}, Fusion)
    Traceback (most recent call last):
    mmvae.errors.InputError: the file names os.system, and os is neither part of mmvae nor of an installed plugin: ...
    """
    return _instance(plain, (kind,), 0)


def _instance(plain: object, kinds: tuple[type, ...], depth: int) -> Any:
    cls = _class_of(plain, kinds)
    arguments = plain.get("init_args", {}) if isinstance(plain, Mapping) else {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"{cls.__name__} has init_args {_short(arguments)}; expected a value for each field")
    renamed = getattr(cls, "renamed_fields", {})
    known = {renamed.get(name, name): value for name, value in arguments.items()}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(_short(name) for name in set(known) - set(fields))
    if unknown:
        raise InputError(
            f"{cls.__name__} has no field {unknown[0]}; the file was written by another version of {cls.__module__}. "
            "Install that version"
        )
    hints = get_type_hints(cls)
    values = {}
    for name, item in known.items():
        # A default may be a value that the annotation rules out (None for "not fitted yet").
        annotation = Any if item is None and fields[name].default is None else hints[name]
        values[name] = _value(item, annotation, f"{cls.__name__}.{name}", depth + 1)
    try:
        return cls(**values)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{cls.__name__} does not take the values that the file gives it ({_one_line(error)})"
        ) from error


def _value(item: object, annotation: object, place: str, depth: int) -> object:
    """The value of a field, checked against its annotation; lists become tuples, and an int becomes a float if one is expected."""
    if depth > DEEPEST:
        raise InputError(f"{place} is nested more than {DEEPEST} levels deep; the file is damaged or hostile")
    choices = _choices(annotation)
    if isinstance(item, Mapping):
        return _instance(item, _classes_in(annotation), depth)
    if type(item) is int and float in choices and int not in choices and abs(item) < 2**53:
        return float(item)
    if isinstance(item, list | tuple):
        for choice in choices:
            parts = _parts(choice, len(item))
            if parts is not None:
                return tuple(
                    _value(each, part, place, depth + 1) for each, part in zip(item, parts, strict=True)
                )
    elif (item is None or isinstance(item, bool | int | float | str)) and any(
        _allows(c, item) for c in choices
    ):
        return item
    raise InputError(f"{place} is {_short(item)} in the file; expected {_words(annotation)}")


def _choices(annotation: object) -> tuple[object, ...]:
    """The alternatives of a union, else the annotation alone."""
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    return (annotation,)


def _parts(annotation: object, count: int) -> tuple[object, ...] | None:
    """The annotations of the items of a list with `count` items; None if the annotation allows no list of this length."""
    if annotation is Any:
        return (Any,) * count
    origin = get_origin(annotation) or annotation
    if not (isinstance(origin, type) and issubclass(origin, Sequence)) or issubclass(origin, str):
        return None
    parts = get_args(annotation) or (Any, ...)
    if origin is tuple and parts[-1] is not Ellipsis:
        return parts if len(parts) == count else None
    return (parts[0],) * count


def _allows(annotation: object, item: bool | int | float | str | None) -> bool:
    """Whether a field with this annotation may hold a plain value; an int counts as a float, a bool as neither."""
    if get_origin(annotation) is Literal:
        return any(item == word and type(item) is type(word) for word in get_args(annotation))
    if annotation is float:
        return isinstance(item, int | float) and not isinstance(item, bool)
    if annotation is int:
        return isinstance(item, int) and not isinstance(item, bool)
    if annotation is bool or annotation is str:
        return type(item) is annotation
    return annotation is Any or (annotation in (None, type(None)) and item is None)


def _classes_in(annotation: object) -> tuple[type, ...]:
    """The classes in an annotation, builtins excepted: a nested value must be an instance of one of them."""
    if isinstance(annotation, type) and not get_args(annotation) and annotation is not Any:
        return () if annotation.__module__ == "builtins" else (annotation,)
    return tuple(cls for part in get_args(annotation) for cls in _classes_in(part))


def _class_of(plain: object, kinds: tuple[type, ...]) -> type[Any]:
    """The class that a file names, checked to be of one of these kinds."""
    path = plain.get("class_path") if isinstance(plain, Mapping) else None
    expected = " or ".join(kind.__name__ for kind in kinds) or "plain value"
    if not isinstance(path, str) or "." not in path or not all(p.isidentifier() for p in path.split(".")):
        raise InputError(
            f"found {_short(path)} as the class_path of a stored class; expected the path of a {expected}"
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
            f"the file names {path}, which this environment cannot import ({_one_line(error)}); install the distribution "
            "that ships it (`mmvae modalities` lists those installed)"
        ) from error
    frozen = isinstance(cls, type) and getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    if not (frozen and kinds and issubclass(cls, kinds) and _within(cls.__module__, allowed)):
        raise InputError(f"the file names {path}, which is no {expected}; it was not used")
    return cls


def _within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in allowed)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _short(item: object) -> str:
    """A value as quoted in messages, in at most 80 characters."""
    if isinstance(item, Mapping | list | tuple):
        return f"a {type(item).__name__} of {len(item)}"
    text = repr(item)
    return text if len(text) <= 80 else text[:77] + "…"


def _words(annotation: object) -> str:
    return (
        getattr(annotation, "__name__", str(annotation)) if isinstance(annotation, type) else str(annotation)
    )
