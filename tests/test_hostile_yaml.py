"""A YAML, or a checkpoint beside it, that a stranger sends runs nothing: every attack is first shown to work without the guard."""

import os
import sys
from pathlib import Path
from typing import Any

import jsonargparse
import jsonargparse._common
import pytest
import torch
import yaml

import mmvae.plain
from mmvae.cli import fit, main
from mmvae.cli.allowed import allow_only_known, refuse_other_than_classes
from mmvae.errors import InputError

ATTACKER = """
from dataclasses import dataclass
from pathlib import Path
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from mmvae.latent.fusion import Fusion, PoE
from mmvae.latent.objective import ELBO
from mmvae_terms import Terms

def mark(*_, **__):
    Path({marker!r}).touch()

mark()

@dataclass(frozen=True)
class Rule(PoE): pass

@dataclass(frozen=True)
class Bound(ELBO): pass

@dataclass(frozen=True)
class Recipe(Terms): pass

class Watcher(Callback): pass
class Log(CSVLogger): pass
class Clock(SimpleProfiler): pass
class Place(LightningEnvironment): pass
class Device(SingleDeviceStrategy): pass

def rule() -> Fusion:
    mark()
    return PoE()
"""


@pytest.fixture
def stage(phantom, tmp_path, monkeypatch):
    """A working folder with an attacker's module in it, a marker that it writes, and a harmless configuration."""
    marker, name = tmp_path / "marker", f"attacker_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(ATTACKER.format(marker=str(marker)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield Stage(tmp_path, name, marker, phantom)
    sys.modules.pop(name, None)


def unguarded_settings() -> dict[str, Any]:
    """jsonargparse's settings as they would be had nobody restricted them."""
    free = {
        "import_paths_enforced": False,
        "import_path_verdicts": {},
        "instantiate_subclass_spec_in_any": True,
    }
    return {**jsonargparse._common.parsing_settings, **free}


class Stage:
    """Writes configurations and runs them with and without the guard."""

    def __init__(self, folder: Path, attacker: str, marker: Path, cohort: Path):
        self.folder, self.attacker, self.marker, self.cohort = folder, attacker, marker, cohort

    def write(self, change) -> Path:
        """The harmless configuration after a change, as a file."""
        config = {
            "model": {"latent_dim": 2, "answer_roles": ["terms"], "modalities": {"clinical": "Clinical", "terms": "Terms"}},
            "data": {"cohort": str(self.cohort), "batch_size": 24},
            "trainer": {
                "fast_dev_run": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
            },
        }  # fmt: skip
        change(config)
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def run(self, path: Path, *more: str) -> int:
        """`mmvae fit` as it is."""
        return main(["fit", "-c", str(path), *more])

    def run_unguarded(self, path: Path, *more: str) -> None:
        """`mmvae fit` without what this file is about."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonargparse._common, "parsing_settings", unguarded_settings())
            patch.setattr(fit, "allow_only_known", lambda modules: None)
            patch.setattr(fit, "refuse_other_than_classes", lambda config: None)
            try:
                self.run(path, *more)
            except Exception as error:  # an attack may break the run after it has run
                print(f"the unguarded run ended with {type(error).__name__}")

    def attack_is_refused(self, path: Path, capsys, named: str) -> None:
        """The planted attack leaves its mark without the guard, and none with it; the refusal names it and the remedy."""
        self.run_unguarded(path)
        assert self.marker.exists(), "the planted attack does not work, so its refusal would show nothing"
        self.marker.unlink()
        sys.modules.pop(self.attacker, None)
        capsys.readouterr()
        assert self.run(path) == 1
        assert not self.marker.exists()
        said = capsys.readouterr().err
        assert said.startswith("mmvae: ")
        assert len(said.strip().splitlines()) == 1
        assert named in said


def put(*place, value):
    """A change that sets a value at a place of the configuration."""

    def change(config):
        for key in place[:-1]:
            config = config.setdefault(key, {})
        config[place[-1]] = value

    return change


def spec(path, **arguments):
    return {"class_path": path, "init_args": arguments}


def test_the_harmless_configuration_runs(stage):
    assert stage.run(stage.write(lambda config: None)) == 0


@pytest.mark.parametrize(
    ("place", "cls"),
    [
        (("model", "fusion"), "Rule"),
        (("model", "objective"), "Bound"),
        (("model", "modalities", "terms"), "Recipe"),
        (("trainer", "callbacks"), "Watcher"),
        (("trainer", "logger"), "Log"),
        (("trainer", "profiler"), "Clock"),
        (("trainer", "plugins"), "Place"),
        (("trainer", "strategy"), "Device"),
    ],
)
def test_a_module_in_the_working_folder_is_not_imported(stage, capsys, place, cls):
    path = f"{stage.attacker}.{cls}"
    value = [spec(path)] if place[-1] == "callbacks" else spec(path)
    stage.attack_is_refused(stage.write(put(*place, value=value)), capsys, f"add --trust {stage.attacker}")


def test_a_class_path_within_another_s_arguments_is_not_imported(stage, capsys):
    inner = spec(
        "mmvae.latent.objective.Sum",
        terms=[spec("mmvae.latent.objective.ELBO"), spec(f"{stage.attacker}.Bound")],
    )
    stage.attack_is_refused(
        stage.write(put("model", "objective", value=inner)), capsys, f"{stage.attacker}.Bound"
    )


@pytest.mark.parametrize("place", [("model",), ("model", "fusion")])
def test_what_a_file_named_by_the_file_names_is_not_imported(stage, capsys, place):
    nested = {"fusion": spec(f"{stage.attacker}.Rule")}

    def change(config):
        if place == ("model",):
            (stage.folder / "nested.yaml").write_text(yaml.safe_dump({**config["model"], **nested}))
            config["model"] = "nested.yaml"
        else:
            (stage.folder / "nested.yaml").write_text(yaml.safe_dump(nested["fusion"]))
            config["model"]["fusion"] = "nested.yaml"

    stage.attack_is_refused(stage.write(change), capsys, f"{stage.attacker}.Rule")


def test_a_command_in_an_argument_of_any_type_is_not_run(stage):
    """jsonargparse builds what looks like a class wherever a type is Any."""
    attack = spec(f"{stage.attacker}.Watcher")

    def build(guarded):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--anything", type=Any)
        with pytest.MonkeyPatch.context() as patch:
            if not guarded:
                patch.setattr(jsonargparse._common, "parsing_settings", unguarded_settings())
            return parser.instantiate(parser.parse_object({"anything": attack})).anything

    assert type(build(guarded=False)).__name__ == "Watcher"
    assert stage.marker.exists(), "the planted attack does not work"
    stage.marker.unlink()
    sys.modules.pop(stage.attacker)
    allow_only_known(())
    assert isinstance(build(guarded=True), dict | jsonargparse.Namespace)
    assert not stage.marker.exists()


@pytest.mark.parametrize(
    "place", [("model", "fusion"), ("model", "modalities", "terms"), ("trainer", "callbacks")]
)
@pytest.mark.parametrize("path", ["os.system", "posix.system", "mmvae.atomic.os.system", "builtins.exec"])
def test_a_command_is_no_class_of_any_kind(stage, capsys, place, path):
    assert stage.run(stage.write(put(*place, value=spec(path, command=f"touch {stage.marker}")))) == 1
    assert not stage.marker.exists()
    assert path in capsys.readouterr().err


def test_a_function_of_a_trusted_module_is_no_class(stage, capsys, monkeypatch):
    path = stage.write(put("model", "fusion", value=spec(f"{stage.attacker}.rule")))
    stage.run_unguarded(path)
    assert stage.marker.exists()
    assert stage.run(path, "--trust", stage.attacker) == 1
    assert "model.fusion names" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", ["mmvae_terms.Terms.fitted", "mmvae.modality.Modality.fitted", "mmvae.cli.main"]
)
def test_a_callable_of_an_allowed_package_is_no_class(stage, capsys, path):
    assert stage.run(stage.write(put("model", "modalities", "terms", value=spec(path)))) == 1
    assert path in capsys.readouterr().err


@pytest.mark.parametrize("name", ["LambdaCallback", "lightning.pytorch.callbacks.LambdaCallback"])
def test_a_callback_that_calls_what_it_is_given_is_refused(stage, capsys, name):
    value = [spec(name, on_fit_start=f"{stage.attacker}.mark")]
    stage.attack_is_refused(stage.write(put("trainer", "callbacks", value=value)), capsys, "LambdaCallback")


@pytest.mark.parametrize("argument", ["settings", "dict_kwargs", "experiment"])
def test_a_logger_s_arguments_for_another_library_are_refused(argument):
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "p"}}
    refuse_other_than_classes(jsonargparse.Namespace(trainer=jsonargparse.Namespace(logger=logger)))
    logger["init_args"][argument] = {"base_url": "http://elsewhere"}
    with pytest.raises(InputError, match=f"trainer.logger.init_args.{argument} is"):
        refuse_other_than_classes(jsonargparse.Namespace(trainer=jsonargparse.Namespace(logger=logger)))


def test_tags_of_python_are_not_read(stage, capsys):
    text = f"!!python/object/apply:os.system ['touch {stage.marker}']"
    yaml.unsafe_load(text)
    assert stage.marker.exists()
    stage.marker.unlink()
    path = stage.folder / "tags.yaml"
    path.write_text(f"model: {text}\n")
    assert stage.run(path) == 1
    assert not stage.marker.exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("trainer", "default_root_dir"), "memory://elsewhere"),
        (("trainer", "callbacks"), [spec("ModelCheckpoint", dirpath="memory://elsewhere/checkpoints")]),
        (("trainer", "logger"), spec("lightning.pytorch.loggers.CSVLogger", save_dir="memory://elsewhere")),
        (("trainer", "default_root_dir"), "reference::file:///elsewhere.json"),
    ],
)
def test_a_run_writes_to_no_address(stage, capsys, place, value):
    """Lightning hands paths to fsspec, which knows ftp, http and more; `memory` stands for them here."""
    assert stage.run(stage.write(put(*place, value=value))) == 1
    assert "an address" in capsys.readouterr().err


# ---- what the user names ------------------------------------------------------------------------------------------------


def test_a_trusted_module_may_be_named_and_its_checkpoint_loads_in_the_same_process(stage):
    from mmvae.model import MMVAE

    path = stage.write(put("model", "fusion", value=spec(f"{stage.attacker}.Rule")))
    run = stage.folder / "run"
    more = (
        "--trainer.fast_dev_run",
        "false",
        "--trainer.max_epochs",
        "1",
        "--trainer.default_root_dir",
        str(run),
    )
    assert stage.run(path, "--trust", stage.attacker, *more) == 0
    assert type(MMVAE.load_from_checkpoint(run / "last.ckpt").rule).__name__ == "Rule"


def test_a_class_path_that_the_user_types_is_trusted(stage):
    assert stage.run(stage.write(lambda config: None), f"--model.fusion={stage.attacker}.Rule") == 0
    assert stage.attacker in mmvae.plain.trusted_modules()


def test_a_file_that_the_user_types_is_no_class_path(stage, capsys):
    (stage.folder / f"{stage.attacker}.yaml").write_text(yaml.safe_dump(spec(f"{stage.attacker}.Rule")))
    assert stage.run(stage.write(lambda config: None), f"--model.fusion={stage.attacker}.yaml") == 1
    assert not stage.marker.exists()
    assert f"--trust {stage.attacker}" in capsys.readouterr().err


def test_a_configuration_cannot_trust_for_the_user(stage, capsys):
    def change(config):
        config["trust"] = [stage.attacker]
        config["model"]["fusion"] = spec(f"{stage.attacker}.Rule")

    assert stage.run(stage.write(change)) == 1
    assert not stage.marker.exists()


@pytest.mark.parametrize(
    ("words", "message"), [(("--trust",), "found ''"), (("--trust", "no_such_module"), "no_such_module")]
)
def test_a_module_that_cannot_be_trusted_is_named(stage, capsys, words, message):
    assert stage.run(stage.write(lambda config: None), *words) == 1
    assert message in capsys.readouterr().err


# ---- checkpoints ------------------------------------------------------------------------------------------------------


class Touch:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("way", ["flag", "yaml", "address", "last"])
def test_a_pickle_for_a_checkpoint_is_not_run(stage, capsys, way):
    evil = stage.folder / ("last.ckpt" if way == "last" else "evil.ckpt")
    torch.save({"state_dict": {}, "mmvae": {}, "x": Touch(stage.marker)}, evil)
    torch.load(evil, weights_only=False)
    assert stage.marker.exists()
    stage.marker.unlink()
    named = {"address": f"file://{evil}", "last": "last"}.get(way, str(evil))

    def change(config):
        config["trainer"].update(fast_dev_run=False, max_epochs=1, default_root_dir=str(stage.folder))
        config["weights_only"] = False
        if way != "flag":
            config["ckpt_path"] = named
        if way == "last":
            keep = spec("ModelCheckpoint", dirpath=str(stage.folder), save_last=True)
            config["trainer"]["callbacks"] = [keep]

    more = ("--ckpt_path", named) if way == "flag" else ()
    assert stage.run(stage.write(change), *more) == 1
    assert not stage.marker.exists()
    assert "checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["modalities", "fusion", "fitted", "space"])
def test_a_checkpoint_may_name_no_command(stage, trained, capsys, entry):
    """A reader that imports what is named and calls it runs the command; ours refuses the name."""
    hostile = spec("os.system", command=f"touch {stage.marker}")
    module, name = hostile["class_path"].split(".")
    getattr(__import__(module), name)(**hostile["init_args"])
    assert stage.marker.exists()
    stage.marker.unlink()
    kept = torch.load(trained, weights_only=True)
    if entry in ("modalities", "fusion"):
        kept["mmvae"]["config"][entry] = {"t1": hostile} if entry == "modalities" else hostile
    else:
        kept["mmvae"][entry] = {"t1": hostile} if entry == "fitted" else hostile
    torch.save(kept, stage.folder / "hostile.ckpt")
    run = trained.parent
    assert main(["fit", "-c", str(run / "config.yaml"), "--ckpt_path", str(stage.folder / "hostile.ckpt"),
                 "--trainer.default_root_dir", str(stage.folder)]) == 1  # fmt: skip
    assert not stage.marker.exists()
    assert "os.system" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["local://{}", "{}", "{run}/../precious", "memory://elsewhere.ckpt"])
def test_a_checkpoint_removes_nothing_but_checkpoints(stage, release_0_1, capsys, monkeypatch, named):
    """ModelCheckpoint's state is believed by Lightning: a better epoch removes the "file" that was best before."""
    monkeypatch.chdir(release_0_1)
    precious, run = release_0_1 / "precious", release_0_1 / "run"

    def resume():
        precious.mkdir(exist_ok=True)
        return main(["fit", "-c", "fit.yaml", "--ckpt_path", "hostile.ckpt", "--trainer.max_epochs", "4",
                     "--trainer.default_root_dir", str(run)])  # fmt: skip

    worse, file = torch.tensor(-1.0), named.format(precious, run=run)
    kept = torch.load("model.ckpt", weights_only=True)
    for state in kept["callbacks"].values():
        state.pop("dirpath", None)
        state.update(
            best_model_path=file, kth_best_model_path=file, best_k_models={file: worse}, kth_value=worse
        )
    torch.save(kept, "hostile.ckpt")
    if named == "local://{}":
        with monkeypatch.context() as patch:
            patch.setattr("mmvae.model.module.refuse_foreign_files", lambda callbacks: None)
            resume()
        assert not precious.exists(), "the planted attack does not work, so its refusal would show nothing"
    capsys.readouterr()
    assert resume() == 1
    assert "which is no checkpoint on this machine" in capsys.readouterr().err
    assert precious.is_dir()
