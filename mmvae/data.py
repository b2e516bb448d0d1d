"""A cohort's cases → batches: what each role sees, cached, moved together, stacked."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mmvae.batch import Batch, MotionRange, Observation, collate
from mmvae.cache import read_cached
from mmvae.case import Case, Cohort, InputError
from mmvae.discovery import kind_of
from mmvae.modality import Modality, view_of


def seed_of(*parts: object) -> int:
    """A 63-bit seed from anything that prints; the same in every process."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8]) >> 1


class CaseDataset(Dataset):
    """Cases as (case id, observations by role, present by role).

    With a motion range the images of a case move together, keyed by case and epoch, so that two processes see what one would.
    """

    def __init__(
        self,
        cohort: Cohort,
        cases: Sequence[Case],
        modalities: Mapping[str, Modality],
        answer_roles: Sequence[str],
        motion: MotionRange | None = None,
        seed: int = 0,
        cache: Path | None = None,
    ):
        self.cohort, self.cases, self.modalities = cohort, list(cases), dict(modalities)
        self.answer_roles, self.motion, self.seed, self.cache = tuple(answer_roles), motion, seed, cache
        self.kinds = {role: kind_of(recipe, role) for role, recipe in self.modalities.items()}

    def __len__(self) -> int:
        return len(self.cases)

    def view(self, case: Case, role: str):
        """What the role sees of the case."""
        recipe, answer = self.modalities[role], role in self.answer_roles
        return view_of(case, self.cohort.root, self.kinds[role], recipe, self.cohort.card.answers, answer)

    def observe(self, index: int, role: str) -> Observation | None:
        """The role's observation of a case, None where it is absent or nothing was measured.

        Raises:
            InputError: naming case and role.
        """
        case, recipe = self.cases[index], self.modalities[role]
        view = self.view(case, role)
        if not recipe.present(view):
            return None
        folder = (self.cache or self.cohort.root / "cases") / case.case_id / ".cache"
        try:
            seen = read_cached(recipe, view, folder)
        except InputError as error:
            raise InputError(f"case {case.case_id}, role {role}: {error}") from error
        blank = recipe.blank()
        if (seen.value.shape, seen.mask.shape) != (blank.value.shape, blank.mask.shape):
            raise InputError(
                f"case {case.case_id}, role {role}: read gives value {tuple(seen.value.shape)} and mask "
                f"{tuple(seen.mask.shape)}, blank {tuple(blank.value.shape)} and {tuple(blank.mask.shape)}; they must agree"
            )
        return seen if bool(seen.mask.any()) else None

    def __getitem__(self, at: tuple[int, int]) -> tuple[str, dict[str, Observation], list[bool]]:
        index, epoch = at
        case_id = self.cases[index].case_id
        motion = None
        if self.motion is not None:
            motion = self.motion.draw(
                torch.Generator().manual_seed(seed_of("motion", self.seed, case_id, epoch))
            )
        seen, present = {}, []
        for role, recipe in self.modalities.items():
            one = self.observe(index, role)
            present.append(one is not None)
            if one is None:
                one = recipe.blank()
            elif motion is not None:
                generator = torch.Generator().manual_seed(seed_of(role, self.seed, case_id, epoch))
                one = recipe.augment(one, motion, generator)
            seen[role] = one
        return case_id, seen, present


class EpochSampler(DistributedSampler):
    """Indices with the epoch they are drawn for, so that a worker knows what keys a case's motion, a resumed one too."""

    def __init__(self, dataset: Dataset, trainer, shuffle: bool, seed: int):
        super().__init__(dataset, trainer.world_size, trainer.global_rank, shuffle, seed)
        self.trainer = trainer

    def __iter__(self):
        self.set_epoch(self.trainer.current_epoch)
        return iter([(index, self.epoch) for index in super().__iter__()])


class CaseData(LightningDataModule):
    """Training, validation and test batches of a cohort; it has no modalities but takes the model's.

    Args:
        cohort: Folder with card.json and cases.jsonl.
        batch_size: Cases a step and process.
        fold: Which fold of `splits.json`, where it holds folds.
        workers: DataLoader processes; 0 reads in the main process, which is best on 2 cores.
        motion: How far a case may be moved in training.
        cache: Folder for observations as read; beside each case in the cohort unless given.
        seed: Of order and motion.
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
        self.left_out = 0

    @property
    def cohort(self) -> Cohort:
        """The cohort, read once."""
        if self._cohort is None:
            self._cohort = Cohort.load(self.path)
        return self._cohort

    def cases(self, split: str) -> tuple[Case, ...]:
        """The cases of a split of this fold."""
        found = self.cohort.split(split, self.fold)
        if not found:
            raise InputError(
                f"the cohort's {split} split holds no case; draw the splits again with `mmvae scan --splits`"
            )
        return found

    def identity(self) -> dict[str, str | int | None]:
        """What a resumed run compares: the cohort's and the splits' hashes and the fold."""
        return {
            "cohort": self.cohort.sha256,
            "splits": self.cohort.splits.sha256 if self.cohort.splits else None,
            "fold": self.fold,
        }

    def dataset(self, split: str) -> CaseDataset:
        """The split's cases; training cases in which no role is present are left out and counted."""
        if split not in self._sets:
            model, cases = self.trainer.lightning_module, self.cases(split)
            motion = self.motion if split == "train" else None
            made = CaseDataset(
                self.cohort, cases, model.modalities, model.answer_roles, motion, self.seed, self.cache
            )
            if split == "train":
                kept = [
                    i
                    for i in range(len(made))
                    if any(made.observe(i, role) is not None for role in made.modalities)
                ]
                if not kept:
                    raise InputError(
                        f"none of the {len(cases)} training cases has any of the roles {sorted(made.modalities)}"
                    )
                self.left_out = len(made) - len(kept)
                if self.left_out:
                    kept_cases = [made.cases[i] for i in kept]
                    made = CaseDataset(
                        self.cohort,
                        kept_cases,
                        model.modalities,
                        model.answer_roles,
                        motion,
                        self.seed,
                        self.cache,
                    )
            self._sets[split] = made
        return self._sets[split]

    def _loader(self, split: str, shuffle: bool) -> DataLoader:
        dataset = self.dataset(split)
        sampler = EpochSampler(dataset, self.trainer, shuffle, self.seed)
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
