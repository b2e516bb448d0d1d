"""What the configuration of a run may name: a YAML that a stranger sends runs nothing.

jsonargparse imports what a class path names and calls what fits. Here it may import only the classes listed below, those of
mmvae's own kinds (recipes, fusion rules, objectives) and the modules that the user named on the command line; and before
anything is built, each class path is known to lead to a class.
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

# Classes of Lightning none of which takes a callable, a module or a command. Left out for that reason: LambdaCallback,
# StochasticWeightAveraging, ThroughputMonitor, PyTorchProfiler and the strategies, whose short names (`ddp`) do.
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

# Arguments of the classes above that reach into another library: W&B's settings name executables and servers.
REFUSED_ARGUMENTS = ("dict_kwargs", "settings", "experiment")

_NAMING = re.compile(r"--(model|trainer)\.")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_ADDRESS = re.compile(r"::|://")  # Lightning would write checkpoints and logs to it, over the network too
_CALLABLES = (FunctionType, BuiltinFunctionType, MethodType, functools.partial, type)


def without_trust(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--trust MODULE`, and the modules: no configuration file can give this one.

    Raises:
        InputError: where a module is missing or is no module's name.
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
    """Modules of the class paths that the command line itself spells, such as `--model.fusion my_package.Median`."""
    modules: list[str] = []
    for place, word in enumerate(argv):
        if not _NAMING.match(word):
            continue
        value = word.partition("=")[2] if "=" in word else next(iter(argv[place + 1 :]), "")
        if Path(value).is_file():
            continue  # what a file names, the user has not typed
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
    """From now on a configuration may name only known classes and what lies in these modules, which are imported.

    Raises:
        InputError: where one of the modules cannot be imported.
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
    """Looks once more at a parsed configuration before anything of it is built: class paths lead to classes, all else is plain.

    Raises:
        InputError: naming the setting.
    """
    plain = config.as_dict()
    for setting, path in _class_paths(plain):
        module, _, name = str(path).rpartition(".")
        if not isinstance(getattr(import_module(module), name, None), type):
            raise InputError(
                f"{setting} names {path}, which is no class; expected a class of the wanted kind"
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
    """Every value, with its setting; a refused argument counts as one whatever it holds."""
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
    """Where a class is defined, and the packages about that module which show it: jsonargparse asks about both."""
    parts = cls.__module__.split(".")
    for count in range(1, len(parts) + 1):
        module = ".".join(parts[:count])
        if getattr(sys.modules.get(module), cls.__qualname__, None) is cls:
            yield f"{module}.{cls.__qualname__}"


def explain_denied(error: BaseException) -> str | None:
    """One line for the parser's complaint about a path that may not be imported; None for another complaint."""
    # The parser's own words may be about what it tried next, hence the errors from which this one came.
    said = " ".join(str(each) for each in _origins(error))
    denied = re.search(r"Importing '([^']+)' is not allowed", said)
    if denied is None:
        return None
    path = denied[1]
    key = re.search(r'Parser key "([^"]+)"', said)
    file = re.search(r"Config file loop detected: (\S+)", said)
    where = (key[1] if key else "the configuration") + (f" ({file[1]})" if file else "")
    return (
        f"{where} names {path}, which is neither mmvae's, an installed plugin's nor one of Lightning's classes that a "
        "configuration may name; nothing of it was imported. Install its distribution as a plugin or, if you know what it does, "
        f"add --trust {path.split('.')[0]}"
    )


def _origins(error: BaseException) -> Iterator[BaseException]:
    """An error and those in whose handling it was raised."""
    origin: BaseException | None = error
    while origin is not None:
        yield origin
        origin = origin.__cause__ or origin.__context__
