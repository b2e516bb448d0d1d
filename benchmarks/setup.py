"""The one configuration that all rows of the phantom bench share, and one training of it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from mmvae_clinical import Clinical
from mmvae_mri.contrast import Contrast
from mmvae_mri.dwi import DWI
from mmvae_mri.structural import T1, T2
from mmvae_report import Report
from mmvae_terms import Terms

from mmvae.batch import MotionRange
from mmvae.data import CaseData
from mmvae.latent.objective import ELBO
from mmvae.modality import Modality
from mmvae.model import MMVAE
from mmvae.retrieval.monitor import RetrievalMonitor

IMAGES = ("t1", "t1_fs", "t2", "dwi", "contrast")
PAIR = ("dwi", "t2")  # the pair whose ceiling has a training of its own
GRID = {"about": "lesion", "shape": (12, 40, 40), "spacing_mm": (7.0, 3.5, 3.5)}
MOTION = MotionRange(rotation_deg=30.0, translation_mm=5.0, scale=0.15, flip=True)
SUPERVISION = {
    "none": (),
    "report": ("report",),
    "findings": ("terms",),
    "report+findings": ("report", "terms"),
    "labels": ("label",),
}


@dataclass(frozen=True)
class Budget:
    """What every trained row spends: epochs, cases a step, learning rate, latent dimensions; arithmetic of the networks."""

    epochs: int = 24
    batch_size: int = 25
    lr: float = 2e-3
    latent_dim: int = 64
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"


def modalities(roles: tuple[str, ...]) -> dict[str, Modality]:
    """The recipes of these roles."""
    every = {
        "t1": T1(**GRID),
        "t1_fs": T1(fat_saturated=True, **GRID),
        "t2": T2(**GRID),
        "dwi": DWI(**GRID),
        "contrast": Contrast(**GRID),
        "clinical": Clinical(),
        "report": Report(),
        "terms": Terms(),
        "label": Terms(source="labels", label="histology"),
    }
    return {role: every[role] for role in roles}


def model(roles: tuple[str, ...], answers: tuple[str, ...], seed: int, budget: Budget) -> MMVAE:
    """A model of these roles with these decoded answers; weights as the shipped YAML sets them."""
    weights = {"report": 10.0, "terms": 3000.0, "label": 3000.0}
    images = [role for role in roles if role in IMAGES]
    return MMVAE(
        modalities((*roles, *answers)),
        latent_dim=budget.latent_dim,
        objective=ELBO(beta=1.0, warmup_epochs=5),
        answer_roles=list(answers),
        weights={role: weights[role] for role in answers},
        visible={**{role: 0.4 for role in roles}, **{role: 0.1 for role in answers}},
        subsets=6,
        scored=0.35,
        groups={"images": images} if images else {},
        lr=budget.lr,
        seed=seed,
    )


def train(
    made: MMVAE,
    cohort: str,
    seed: int,
    budget: Budget,
    folder: Path,
    motion: MotionRange = MOTION,
    fold: int | None = None,
) -> MMVAE:
    """The model after its budget, at the epoch with the best validation mAP."""
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
    trainer.fit(made, data)
    return MMVAE.load_from_checkpoint(keep.best_model_path)


def versions() -> dict[str, str]:
    """Versions that a row depends on."""
    return {"python": sys.version.split()[0], "torch": torch.__version__, "lightning": lightning.__version__}
