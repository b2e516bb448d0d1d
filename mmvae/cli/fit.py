"""`mmvae fit|validate|test`: LightningCLI with a run folder of its own, retrieval on validation, and clear refusals."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from mmvae.cli.allowed import (
    allow_only_known,
    explain_denied,
    named_by,
    refuse_other_than_classes,
    without_trust,
)
from mmvae.cli.quiet import quiet, shown
from mmvae.cli.renamed import old_names_are_read
from mmvae.data import CaseData
from mmvae.discovery import installed, load_all
from mmvae.errors import InputError
from mmvae.model import MMVAE
from mmvae.model.checkpoint import read_checkpoint
from mmvae.model.monitor import RetrievalMonitor

EPILOG = (
    "--trust MODULE (repeatable): a module whose classes a configuration file may name. Without it a file may name only classes "
    "of mmvae, of installed plugins and, for the trainer, some of Lightning's."
)


class _SaveConfig(SaveConfigCallback):
    """Writes the resolved YAML into the run folder and nowhere else."""

    def setup(self, trainer, pl_module, stage: str) -> None:
        if trainer.is_global_zero and stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = self.parser.dump(self.config, skip_none=False)
            (folder / "config.yaml").write_text(text)
        self.already_saved = True


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser) -> None:
        parser.add_argument("--profile", action="store_true", help="print where a fit spends its time")

    def _parse_ckpt_path(self) -> None:
        """Does nothing: a run's settings are those of its YAML, and hyperparameters of a checkpoint would silently replace them."""

    def before_instantiate_classes(self) -> None:
        """The last check of what the configuration names, before anything is built."""
        settings = self.config[str(self.subcommand)]
        refuse_other_than_classes(settings)
        checkpoint = settings.ckpt_path
        if checkpoint not in (None, "last", "best"):  # Lightning would also download it from a URL
            read_checkpoint(Path(checkpoint), "cpu")
        settings.weights_only = True  # whatever the YAML says: a pickle runs code

    def _instantiate_trainer(self, config, callbacks):
        """The trainer with its own run folder, in which the best and last checkpoints are kept, and the retrieval monitor."""
        if self._get(self.config_init, "profile", default=False):
            config["profiler"] = "simple"
        folder = Path(
            config.get("default_root_dir") or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        )
        config["default_root_dir"] = str(folder)
        ours: list[Callback] = [RetrievalMonitor()]
        named = config.get("callbacks") or []
        if not config.get("fast_dev_run") and not any(isinstance(c, ModelCheckpoint) for c in named):
            # Two callbacks: `save_last` of the first would save only in epochs in which the metric improves.
            ours.append(
                ModelCheckpoint(
                    folder, filename="best", monitor="val/mAP", mode="max", enable_version_counter=False
                )
            )
            ours.append(
                ModelCheckpoint(
                    folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
                )
            )
        return super()._instantiate_trainer(config, [*callbacks, *ours])

    def before_fit(self) -> None:
        """Refuses to send patients' data to a service unless the user asks for it."""
        if any(isinstance(logger, WandbLogger) for logger in self.trainer.loggers):
            if (
                self.datamodule.cohort.card.source != "phantom"
                and os.environ.get("MMVAE_WANDB_ON_PATIENTS") != "1"
            ):
                raise InputError(
                    "a W&B logger is set and the cohort holds real patients; set MMVAE_WANDB_ON_PATIENTS=1 if you mean it, or use "
                    "CSVLogger"
                )
            os.environ.setdefault("WANDB_MODE", "offline")
        if self.trainer.is_global_zero:
            print(f"run folder: {self.trainer.default_root_dir}")

    def after_fit(self) -> None:
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        best = next((c.best_model_path for c in callbacks if c.monitor and c.best_model_path), "")
        if best and self.trainer.is_global_zero:
            print(f"best checkpoint: {best}")


def run(argv: Sequence[str]) -> None:
    """One run of the LightningCLI.

    Raises:
        InputError: instead of a traceback, for errors that a user can fix.
    """
    load_all()  # short class names resolve only once their module is imported
    argv, modules = without_trust(argv)
    allow_only_known([*modules, *named_by(argv)])
    try:
        with quiet(), shown(), old_names_are_read():
            _CLI(
                MMVAE,
                CaseData,
                save_config_callback=_SaveConfig,
                save_config_kwargs={"overwrite": True},
                trainer_defaults={
                    "logger": False,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 10,
                },
                auto_configure_optimizers=False,
                parser_kwargs={
                    "exit_on_error": False,
                    **{
                        name: {"exit_on_error": False, "parser_mode": "yaml", "epilog": EPILOG}
                        for name in ("fit", "validate", "test")
                    },
                },
                args=argv,
            )
    except ArgumentError as error:
        raise InputError(_explain(error)) from error
    except UnpicklingError as error:
        raise InputError(
            "the checkpoint that the trainer found holds more than plain values; nothing of it was run. Remove it, or name "
            "another with --ckpt_path"
        ) from error
    except SystemExit as stop:  # of --help and --print_config
        if stop.code not in (0, None):
            raise


def _explain(error: ArgumentError) -> str:
    """The parser's error in one line, with the installed modalities if a class was not found."""
    denied = explain_denied(error)
    if denied is not None:
        return denied
    message = " ".join(str(error).split())[:600]
    if any(word in message for word in ("modalities", "class_path", "Import path", "subclass")):
        names = ", ".join(f"{name} ({plugin.path.split(':')[1]})" for name, plugin in installed().items())
        message += f". Installed modalities: {names}; install others with pip, or give a full class path"
    return message
