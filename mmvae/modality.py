"""THE CONTRACT: the interface that a kind of data implements so that the core can train and search with it.

A modality is a recipe, not a network: a frozen dataclass whose fields are its YAML. It is sent to every DataLoader worker
and stored in every checkpoint; weights live in the two modules that it builds.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import nn

from mmvae.batch import Motion, Observation
from mmvae.case import Asset, Card, View
from mmvae.plain import moved


@dataclass(frozen=True)
class TrainingViews:
    """What `fitted` may look at: the cohort's card, and the role's views of the training cases in which it is present."""

    card: Card
    views: Sequence[View]


class Modality(ABC):
    """A recipe for one kind of data. Subclasses are frozen dataclasses in which every field has a default.

    For example, one number of the record, with the building block for answers as decoder:

    >>> from mmvae.blocks.answers import AnswerDecoder
    >>> from mmvae.latent.gaussian import Gaussian
    >>> class AgeEncoder(nn.Module):
    ...     def forward(self, value, mask):
    ...         return Gaussian(value[:, None].expand(-1, 4), torch.zeros(len(value), 4))
    >>> @dataclass(frozen=True)
    ... class Age(Modality):
    ...     def present(self, view): return "age_years" in view.record
    ...     def read(self, view): return Observation(torch.tensor(view.record["age_years"] / 50 - 1), torch.tensor(True))
    ...     def blank(self): return Observation(torch.tensor(0.0), torch.tensor(False))
    ...     def encoder(self, latent_dim): return AgeEncoder()
    ...     def decoder(self, latent_dim): return AnswerDecoder(torch.zeros(1), torch.ones(1), latent_dim)
    ...     def render(self, view): return f"{view.record['age_years']:.0f} years"
    >>> from pathlib import Path
    >>> Age().render(View(Path(), record={"age_years": 61.0}))
    '61 years'

    A class that renames a field maps the old name to the new one in `renamed_fields`, so that checkpoints of earlier
    releases keep loading.
    """

    renamed_fields: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def read(self, view: View) -> Observation:
        """A float32 tensor, the same on every call, and a mask that is True where it was measured.

        value.shape = mask.shape + event. Raises InputError if a file cannot be read or does not fit.
        """

    @abstractmethod
    def blank(self) -> Observation:
        """The observation of an absent modality: zeros of the same fixed shape, with the mask False."""

    @abstractmethod
    def encoder(self, latent_dim: int) -> nn.Module:
        """A module (value, mask) → Gaussian (B, D); the value is 0 where the mask is False."""

    @abstractmethod
    def decoder(self, latent_dim: int) -> nn.Module:
        """A module z (B, D) → a distribution whose log_prob(value) has the mask's shape."""

    @abstractmethod
    def render(self, view: View) -> Image | str:
        """What a radiologist should see: a picture at native resolution or a sentence; no identifiers."""

    def claims(self, facts: Mapping[str, Any]) -> float:
        """How certain it is, from 0 to 1, that an asset with these facts (including its `type`) is of this kind."""
        return 0.0

    def select(self, assets: Sequence[Asset]) -> Sequence[Asset]:
        """The assets that are used, out of the case's assets of this kind: the most certain, then most voxels, then by uri."""
        return sorted(assets, key=lambda a: (-(a.confidence or 0.0), -a.facts.get("voxels", 0), a.uri))[:1]

    def present(self, view: View) -> bool:
        """Whether the case has this modality; no file is opened."""
        return bool(view.assets)

    def fitted(self, training: TrainingViews) -> "Modality":
        """The recipe with statistics, vocabulary or term list filled in from the training views."""
        return self

    def augment(self, observation: Observation, motion: Motion, generator: torch.Generator) -> Observation:
        """The observation under the case's motion, with random variation of its own."""
        return observation

    def misfits(self, view: View) -> Sequence[str]:
        """Sentences on what this view holds that the fitted recipe does not know and treats as missing, e.g. a new category."""
        return ()

    def teaches(self, kind: str) -> str:
        """What an answer role of this modality adds to a row's supervision; by default the kind's name (EVALUATION.md)."""
        return kind

    def describe(self, observation: Observation) -> Image | str:
        """A picture or a sentence of one observation on the model's own grid, read or decoded (`mmvae show`)."""
        return f"{int(observation.mask.sum())} of {observation.mask.numel()} measured"


def __getattr__(name: str) -> Any:
    """A name that was defined here until release 0.1."""
    return moved(__name__, name)
