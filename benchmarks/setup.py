"""What all rows of the phantom's bench share: roles, grid, motion, budget; and one training within that budget."""

import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mmvae.batch import MotionRange
from mmvae.data import CaseData
from mmvae.model import MMVAE
from mmvae.model.monitor import RetrievalMonitor
from mmvae.plain import trust

IMAGES = ("t1", "t1_fs", "t2", "dwi", "contrast")
PAIR = ("dwi", "t2")  # the pair whose ceiling has a training of its own
# "Four imaging series" (PHANTOM.md): one of them is T1 with and without fat suppression.
SERIES = {"t1": ("t1", "t1_fs"), "t2": ("t2",), "dwi": ("dwi",), "contrast": ("contrast",)}
SUBSETS = [
    tuple(role for name in names for role in SERIES[name])
    for size in range(1, 5)
    for names in combinations(SERIES, size)
]
GRID = {"about": "lesion", "shape": (12, 40, 40), "spacing_mm": (7.0, 3.5, 3.5)}
MOTION = MotionRange(rotation_deg=30.0, translation_mm=5.0, scale=0.15, flip=True)


@dataclass(frozen=True)
class Budget:
    """What every trained row spends: epochs, cases per step, learning rate, latent dimensions, precision of the networks."""

    epochs: int = 20
    batch_size: int = 25
    lr: float = 2e-3
    latent_dim: int = 64
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"


def train(
    model: MMVAE,
    cohort: str,
    seed: int,
    budget: Budget,
    folder: Path,
    motion: MotionRange = MOTION,
    fold: int | None = None,
) -> MMVAE:
    """The model after its budget, at the epoch with the best validation mAP.

    Args:
        model: Not yet fitted.
        cohort: Folder of the cases.
        seed: Of weights, order and visible roles.
        budget: Epochs, batch size and precision.
        folder: Of the checkpoint.
        motion: Augmentation.
        fold: Which one, where the cohort has folds.
    """
    lightning.seed_everything(seed, verbose=False)
    data = CaseData(cohort, batch_size=budget.batch_size, motion=motion, seed=seed, fold=fold)
    keep = ModelCheckpoint(
        folder, filename="best", monitor="val/mAP", mode="max", enable_version_counter=False
    )
    trainer = lightning.Trainer(
        max_epochs=budget.epochs,
        precision=budget.precision,
        callbacks=[RetrievalMonitor(), keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=max(1, budget.epochs // 5),
        accelerator="cpu" if not torch.cuda.is_available() else "auto",
    )
    trainer.fit(model, data)
    trust(__name__.split(".")[0])  # a checkpoint of digits names a modality of this package
    return MMVAE.load_from_checkpoint(keep.best_model_path)


def versions() -> dict[str, str]:
    """Versions that a row depends on."""
    return {"python": sys.version.split()[0], "torch": torch.__version__, "lightning": lightning.__version__}
