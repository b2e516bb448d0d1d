"""`mmvae fit|validate|test`: LightningCLI with a run folder of its own, retrieval on validation, and clear refusals."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from mmvae.data import CaseData
from mmvae.discovery import installed, load_all
from mmvae.errors import InputError
from mmvae.model import MMVAE
from mmvae.model.monitor import RetrievalMonitor


class _SaveConfig(SaveConfigCallback):
    """The resolved YAML, in the run folder and nowhere else."""

    def setup(self, trainer, pl_module, stage: str) -> None:
        if trainer.is_global_zero and stage == "fit":
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = self.parser.dump(self.config, skip_none=False)
            (folder / "config.yaml").write_text(text)
        self.already_saved = True


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser) -> None:
        parser.add_argument("--profile", action="store_true", help="print where the time of a fit goes")

    def _instantiate_trainer(self, config, callbacks):
        """The trainer with a run folder of its own, the retrieval monitor, and the best and last checkpoints kept there."""
        if self._get(self.config_init, "profile", default=False):
            config["profiler"] = "simple"
        folder = Path(
            config.get("default_root_dir") or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        )
        config["default_root_dir"] = str(folder)
        ours = [RetrievalMonitor()]
        named = config.get("callbacks") or []
        if not config.get("fast_dev_run") and not any(isinstance(c, ModelCheckpoint) for c in named):
            # Two: `save_last` of the first would follow only the epochs in which it improves.
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
        """Patients' data go to no service unless asked."""
        if any(isinstance(logger, WandbLogger) for logger in self.trainer.loggers):
            os.environ.setdefault("WANDB_MODE", "offline")
            if (
                self.datamodule.cohort.card.source != "phantom"
                and os.environ.get("MMVAE_WANDB_ON_PATIENTS") != "1"
            ):
                raise InputError(
                    "a W&B logger is set and the cohort holds real patients; set MMVAE_WANDB_ON_PATIENTS=1 if you mean it, or use "
                    "CSVLogger"
                )
        if self.trainer.is_global_zero:
            print(f"run folder: {self.trainer.default_root_dir}")

    def after_fit(self) -> None:
        best = next(
            (c.best_model_path for c in self.trainer.checkpoint_callbacks if c.monitor and c.best_model_path),
            "",
        )
        if best and self.trainer.is_global_zero:
            print(f"best checkpoint: {best}")


def run(argv: Sequence[str]) -> None:
    """One run of the LightningCLI.

    Raises:
        InputError: instead of a traceback, for what a user can mend.
    """
    load_all()  # short class names resolve only once their module is imported
    argv = list(argv)
    checkpoint = _value_of(argv, "--ckpt_path")
    if checkpoint not in (None, "last", "best") and not Path(checkpoint).is_file():
        raise InputError(
            f"--ckpt_path {checkpoint}: there is no such file; `mmvae fit` writes checkpoints into its run folder"
        )
    errors = _Tail()
    try:
        with errors:
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
                parser_kwargs={"fit": {"parser_mode": "yaml"}},
                args=argv,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            return
        raise InputError(_explain(errors.text)) from stop


def _value_of(argv: Sequence[str], flag: str) -> str | None:
    for place, word in enumerate(argv):
        if word == flag and place + 1 < len(argv):
            return argv[place + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


class _Tail:
    """Collects what the parser writes to standard error, so that one line of it can be shown."""

    def __init__(self):
        self.text = ""

    def __enter__(self):
        self._real, sys.stderr = sys.stderr, self
        return self

    def __exit__(self, kind, error, trace):
        sys.stderr = self._real
        if kind is not SystemExit:
            return
        # Only the parser exits; what else was written has been passed on as it came.

    def write(self, text: str) -> int:
        self.text += text
        if "error:" not in self.text:
            self._real.write(text)
        return len(text)

    def flush(self) -> None:
        self._real.flush()

    def isatty(self) -> bool:
        return self._real.isatty()

    def fileno(self) -> int:
        return self._real.fileno()


def _explain(text: str) -> str:
    """The parser's complaint in one line, with the installed modalities where a class was not found."""
    said = " ".join(text.split("error:", 1)[-1].split())[:600]
    if "modalities" in said or "class_path" in said or "Import path" in said or "subclass" in said:
        names = ", ".join(f"{name} ({one.path.split(':')[1]})" for name, one in installed().items())
        said += f". Installed modalities: {names}; install others with pip, or give a full class path"
    return said
