"""The Lightning data module: training, validation and test batches from the splits of a cohort."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from mmvae.batch import Batch, MotionRange, collate
from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.data.dataset import CaseDataset, EpochSampler
from mmvae.errors import InputError

_log = logging.getLogger(__name__)


class CaseData(LightningDataModule):
    """Training, validation and test batches of a cohort, with the modalities of the model that is being trained.

    >>> import tempfile
    >>> from mmvae.case import Card
    >>> from mmvae.cohort import write_cohort
    >>> from mmvae.splits import Split, Splits
    >>> cases = [Case("a", patient="p", record={"age_years": 61.0}), Case("b", patient="q", record={"age_years": 40.0})]
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_cohort(folder, Card("two", "table"), cases, Splits((Split(("p",), ("q",), ()),)))
    >>> [case.case_id for case in CaseData(str(folder)).cases("train")]
    ['a']

    Args:
        cohort: Folder with card.json and cases.jsonl.
        batch_size: Cases per step and process.
        fold: Number of the fold, if `splits.json` holds folds.
        workers: DataLoader processes; 0 reads in the main process, which is best on 2 cores.
        motion: Range of the random motion in training.
        cache: Folder that caches observations; by default a folder beside each case.
        seed: Seed of the order of cases and of their motion.
    """

    def __init__(
        self,
        cohort: str,
        batch_size: int = 32,
        fold: int | None = None,
        workers: int = 0,
        motion: MotionRange = MotionRange(),  # noqa: B008 - frozen
        cache: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.path, self.batch_size, self.fold, self.workers = cohort, batch_size, fold, workers
        self.motion, self.cache, self.seed = motion, Path(cache) if cache else None, seed
        self._cohort: Cohort | None = None
        self._sets: dict[str, CaseDataset] = {}

    @property
    def cohort(self) -> Cohort:
        """The cohort, read once."""
        if self._cohort is None:
            self._cohort = Cohort.load(self.path)
        return self._cohort

    def cases(self, split: str) -> tuple[Case, ...]:
        """The cases of a split of this fold."""
        cases = self.cohort.split(split, self.fold)
        if not cases:
            raise InputError(
                f"the cohort's {split} split holds no case; scan the source again with other splits"
            )
        return cases

    def identity(self) -> dict[str, str | int | None]:
        """Hashes of cohort and splits, and the fold: a resumed run compares them with its checkpoint's."""
        return {
            "cohort": self.cohort.sha256,
            "splits": self.cohort.splits.sha256 if self.cohort.splits else None,
            "fold": self.fold,
        }

    def dataset(self, split: str) -> CaseDataset:
        """The split's cases; training cases in which no role is present are left out, and the log says how many."""
        if split not in self._sets:
            whole = self._dataset(self.cases(split), self.motion if split == "train" else None)
            self._sets[split] = self._without_empty(whole) if split == "train" else whole
        return self._sets[split]

    def _dataset(self, cases: Sequence[Case], motion: MotionRange | None) -> CaseDataset:
        model: Any = self._trainer.lightning_module  # Any: this package may not import the model
        return CaseDataset(
            self.cohort, cases, model.modalities, model.answer_roles, motion, self.seed, self.cache
        )

    def _without_empty(self, whole: CaseDataset) -> CaseDataset:
        kept = [
            case
            for index, case in enumerate(whole.cases)
            if any(whole.observe(index, role) is not None for role in whole.modalities)
        ]
        if not kept:
            raise InputError(
                f"none of the {len(whole)} training cases has any of the roles {sorted(whole.modalities)}"
            )
        if len(kept) == len(whole):
            return whole
        if self._trainer.is_global_zero:
            _log.info("%d training cases have none of the roles and are left out", len(whole) - len(kept))
        return self._dataset(kept, whole.motion)

    @property
    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise InputError(
                "the data module has no trainer yet; its loaders are created within trainer.fit(...)"
            )
        return self.trainer

    def _loader(self, split: str, shuffle: bool) -> DataLoader:
        dataset = self.dataset(split)
        sampler = EpochSampler(dataset, self._trainer, shuffle, self.seed)
        return DataLoader(
            dataset, self.batch_size, sampler=sampler, num_workers=self.workers, collate_fn=collate
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("validation", False)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", False)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)
