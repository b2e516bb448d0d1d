"""Restricts the classes that the configuration of a run may name, so that a YAML from a stranger cannot run code.

jsonargparse imports whatever a class path names and may call it. Here it may import only the classes listed below, those of
mmvae's own kinds (recipes, fusion rules, objectives) and the modules that the user named on the command line; and before
anything is built, each class path is checked to lead to a class.
"""

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import yaml
from jsonargparse import Namespace, set_parsing_settings

from mmvae.errors import InputError
from mmvae.latent.fusion import Fusion
from mmvae.latent.objective import Objective
from mmvae.modality import Modality
from mmvae.model import RetrievalMonitor
from mmvae.plain import trust, trusted_modules

# Classes of Lightning, none of which takes a callable, a module or a command. LambdaCallback, StochasticWeightAveraging,
# ThroughputMonitor, PyTorchProfiler and the strategies do, and are left out; strategies still work by short name (`ddp`).
LIGHTNING = {
    "lightning.pytorch.callbacks": (
        "DeviceStatsMonitor", "EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor", "ModelCheckpoint",
        "ModelSummary", "OnExceptionCheckpoint", "RichModelSummary", "RichProgressBar", "Timer", "TQDMProgressBar",
    ),
    "lightning.pytorch.callbacks.progress.rich_progress": ("RichProgressBarTheme",),
    "lightning.pytorch.loggers": ("CSVLogger", "TensorBoardLogger", "WandbLogger"),
    "lightning.pytorch.profilers": ("AdvancedProfiler", "PassThroughProfiler", "SimpleProfiler"),
    "lightning.pytorch.plugins.environments": ("SLURMEnvironment",),
}  # fmt: skip

# Arguments of the classes above that are passed on to another library: W&B's settings name executables and servers.
REFUSED_ARGUMENTS = ("dict_kwargs", "settings", "experiment")

_NAMING = re.compile(r"--(model|trainer)\.")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_ADDRESS = re.compile(r"::|://")  # Lightning would write checkpoints and logs to it, over the network too
_CALLABLES = (FunctionType, BuiltinFunctionType, MethodType, functools.partial, type)


def without_trust(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--trust MODULE`, and the modules; a configuration file cannot set this option.

    Raises:
        InputError: if the name of a module is missing or invalid.
    """
    rest, modules, words = [], [], iter(argv)
    for word in words:
        if word != "--trust" and not word.startswith("--trust="):
            rest.append(word)
            continue
        module = word.partition("=")[2] if "=" in word else next(words, "")
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"found {module!r}; expected the name of a module, e.g. my_package", "trust")
        modules.append(module)
    return rest, modules


def named_by(argv: Sequence[str]) -> list[str]:
    """Modules of the class paths written on the command line itself, such as `--model.fusion my_package.Median`."""
    modules: list[str] = []
    for place, word in enumerate(argv):
        if not _NAMING.match(word):
            continue
        value = word.partition("=")[2] if "=" in word else next(iter(argv[place + 1 :]), "")
        if Path(value).is_file():
            continue  # the user has not typed what a file names
        modules += [path.rpartition(".")[0] for path in _paths_in(value)]
    return modules


def _paths_in(value: str) -> Iterator[str]:
    try:
        plain = yaml.safe_load(value)
    except yaml.YAMLError:
        return
    words = [plain] if isinstance(plain, str) else [path for _, path in _class_paths(plain)]
    yield from (word for word in words if isinstance(word, str) and _CLASS_PATH.fullmatch(word))


def allow_only_known(modules: Iterable[str]) -> None:
    """Restricts configurations to known classes and the contents of these modules, which are imported.

    Raises:
        InputError: if one of the modules cannot be imported.
    """
    modules = list(modules)
    for module in modules:
        trust(module)
        try:
            import_module(module)
        except ImportError as error:
            raise InputError(f"the module {module!r} cannot be imported ({error})", "trust") from error
    lightning = [
        getattr(import_module(module), name) for module, names in LIGHTNING.items() for name in names
    ]
    ours = [cls for kind in (Modality, Fusion, Objective) for cls in _subclasses(kind)]
    paths = [path for cls in (*lightning, *ours, RetrievalMonitor) for path in _paths_of(cls)]
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*paths, *modules],
        instantiate_subclass_spec_in_any=False,
        config_read_mode_fsspec_enabled=False,
    )


def refuse_other_than_classes(config: Namespace) -> None:
    """Checks a parsed configuration before it is built: class paths must lead to classes, and all else must be plain values.

    Raises:
        InputError: naming the setting.
    """
    plain = config.as_dict()
    for setting, path in _class_paths(plain):
        module, _, name = str(path).rpartition(".")
        if not isinstance(getattr(import_module(module), name, None), type):
            raise InputError(
                f"{setting} names {path}, which is not a class; expected a class of the setting's kind"
            )
    for setting, value in _leaves(plain):
        last = setting.rpartition(".")[2]
        if isinstance(value, str) and setting != "ckpt_path" and _ADDRESS.search(value):
            raise InputError(f"{setting} is {value!r}, an address; expected a path on this machine")
        if isinstance(value, _CALLABLES) or (last in REFUSED_ARGUMENTS and value):
            raise InputError(
                f"{setting} is {value!r}, which a configuration may not give; expected numbers, words and lists. "
                "Build the run in Python if you need it"
            )


def _class_paths(plain: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every class path within plain values, with the setting that holds it."""
    if isinstance(plain, dict):
        if "class_path" in plain:
            yield at, plain["class_path"]
        for name, value in plain.items():
            yield from _class_paths(value, f"{at}.{name}" if at else str(name))
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from _class_paths(value, at)


def _leaves(plain: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its setting; a refused argument counts as one value whatever it holds."""
    if isinstance(plain, dict) and at.rpartition(".")[2] not in REFUSED_ARGUMENTS:
        for name, value in plain.items():
            yield from _leaves(value, f"{at}.{name}" if at else str(name))
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from _leaves(value, at)
    else:
        yield at, plain


def _subclasses(kind: type) -> Iterator[type]:
    """The loaded classes of a kind that mmvae or an installed plugin defines."""
    known = trusted_modules()
    for cls in kind.__subclasses__():
        if cls.__module__.split(".")[0] in known:
            yield cls
        yield from _subclasses(cls)


def _paths_of(cls: type) -> Iterator[str]:
    """Import paths of a class: where it is defined, and the enclosing packages that export it; jsonargparse checks both."""
    parts = cls.__module__.split(".")
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if getattr(sys.modules.get(module), cls.__qualname__, None) is cls:
            yield f"{module}.{cls.__qualname__}"


def explain_denied(error: BaseException) -> str | None:
    """One line for the parser's error about a path that may not be imported; None for another error."""
    # The parser's own message may be about what it tried next, hence the errors that caused it.
    message = " ".join(str(origin) for origin in _origins(error))
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    if denied is None:
        return None
    path = denied[1]
    key = re.search(r'Parser key "([^"]+)"', message)
    file = re.search(r"Config file loop detected: (\S+)", message)
    where = (key[1] if key else "the configuration") + (f" ({file[1]})" if file else "")
    return (
        f"{where} names {path}, which is neither mmvae's, an installed plugin's nor one of Lightning's classes that a "
        "configuration may name; nothing of it was imported. Install its distribution as a plugin or, if you know what it does, "
        f"add --trust {path.split('.')[0]}"
    )


def _origins(error: BaseException) -> Iterator[BaseException]:
    """An error and the errors during whose handling it was raised."""
    origin: BaseException | None = error
    while origin is not None:
        yield origin
        origin = origin.__cause__ or origin.__context__
