"""A dataset of the observations of each case by role, cached and augmented with one motion per case."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset, DistributedSampler

from mmvae.batch import MotionRange, Observation
from mmvae.case import Case, View
from mmvae.cohort import Cohort
from mmvae.data.cache import read_cached
from mmvae.discovery import kind_of
from mmvae.errors import InputError
from mmvae.modality import Modality
from mmvae.seeds import seed_of
from mmvae.views import view_of


class CaseDataset(Dataset):
    """Cases as (case id, observations by role, present by role), indexed by (case, epoch).

    With a motion range the images of a case move together, keyed by case and epoch, whatever the number of processes.

    Args:
        cohort: The cohort, whose folder holds the cases' files.
        cases: Cases of the cohort, in this order.
        modalities: Fitted recipes by role.
        answer_roles: Roles that may see answers.
        motion: Range of the random motion; None for no augmentation.
        seed: Seed of motion and augmentation.
        cache: Folder that caches observations; by default a folder beside each case.
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

    def view(self, case: Case, role: str) -> View:
        """What the role sees of the case."""
        recipe, answer = self.modalities[role], role in self.answer_roles
        return view_of(case, self.cohort.root, self.kinds[role], recipe, self.cohort.card.answers, answer)

    def observe(self, index: int, role: str) -> Observation | None:
        """The role's observation of a case; None if it is absent or nothing was measured.

        Raises:
            InputError: naming case and role.
        """
        case, recipe = self.cases[index], self.modalities[role]
        view = self.view(case, role)
        if not recipe.present(view):
            return None
        folder = (self.cache or self.cohort.root / "cases") / case.case_id / ".cache"
        try:
            observation = read_cached(recipe, view, folder)
        except InputError as error:
            raise InputError(f"case {case.case_id}, role {role}: {error}") from error
        blank = recipe.blank()
        if (observation.value.shape, observation.mask.shape) != (blank.value.shape, blank.mask.shape):
            raise InputError(
                f"case {case.case_id}, role {role}: read gives value {tuple(observation.value.shape)} and mask "
                f"{tuple(observation.mask.shape)}, blank {tuple(blank.value.shape)} and {tuple(blank.mask.shape)}; they must agree"
            )
        return observation if bool(observation.mask.any()) else None

    def __getitem__(self, at: tuple[int, int]) -> tuple[str, dict[str, Observation], list[bool]]:
        index, epoch = at
        case_id = self.cases[index].case_id
        motion = None
        if self.motion is not None:
            motion = self.motion.draw(
                torch.Generator().manual_seed(seed_of("motion", self.seed, case_id, epoch))
            )
        observations, present = {}, []
        for role, recipe in self.modalities.items():
            observation = self.observe(index, role)
            present.append(observation is not None)
            if observation is None:
                observation = recipe.blank()
            elif motion is not None:
                generator = torch.Generator().manual_seed(seed_of(role, self.seed, case_id, epoch))
                observation = recipe.augment(observation, motion, generator)
            observations[role] = observation
        return case_id, observations, present


class EpochSampler(DistributedSampler):
    """Yields (index, epoch), so that a worker knows the epoch that keys a case's motion, in a resumed run too."""

    def __init__(self, dataset: Dataset, trainer, shuffle: bool, seed: int):
        super().__init__(dataset, trainer.world_size, trainer.global_rank, shuffle, seed)
        self.trainer = trainer

    def __iter__(self):
        self.set_epoch(self.trainer.current_epoch)
        return iter([(index, self.epoch) for index in super().__iter__()])
