"""THE CONTRACT: what a kind of data says about itself so that the core can train and search with it.

A modality is a recipe, not a network: a frozen dataclass whose fields are its YAML. It travels to every DataLoader worker
and into every checkpoint; weights live in the two modules that it builds.
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
    """What `fitted` may look at: the cohort's card and the role's views of the training cases, absent ones left out."""

    card: Card
    views: Sequence[View]


class Modality(ABC):
    """A recipe for one kind of data. Subclasses are frozen dataclasses, every field with a default.

    Here one number of the record, with the building block for answers as decoder:

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

    A class whose field has another name than in an earlier release maps the old name to the new one in `renamed_fields`,
    so that checkpoints of that release keep loading.
    """

    renamed_fields: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def read(self, view: View) -> Observation:
        """The same float32 tensor each time, and a mask that is True where it was measured.

        value.shape = mask.shape + event. Raises InputError where a file cannot be read or does not fit.
        """

    @abstractmethod
    def blank(self) -> Observation:
        """What an absent one looks like: zeros of the one fixed shape, mask False."""

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
        """0…1: how certain it is that an asset with these facts (`type` among them) is of my kind."""
        return 0.0

    def select(self, assets: Sequence[Asset]) -> Sequence[Asset]:
        """Which of the case's assets of my kind I use: the most certain, then the one with most voxels, then by uri."""
        return sorted(assets, key=lambda a: (-(a.confidence or 0.0), -a.facts.get("voxels", 0), a.uri))[:1]

    def present(self, view: View) -> bool:
        """Whether the case has it; nothing is opened."""
        return bool(view.assets)

    def fitted(self, training: TrainingViews) -> "Modality":
        """The recipe with statistics, vocabulary or term list filled in as values."""
        return self

    def augment(self, observation: Observation, motion: Motion, generator: torch.Generator) -> Observation:
        """The same observation under the case's motion, and its own random variation."""
        return observation

    def misfits(self, view: View) -> Sequence[str]:
        """What this view holds that the fitted recipe does not know and treats as missing, e.g. a new category."""
        return ()

    def teaches(self, kind: str) -> str:
        """What an answer role of mine adds to a row's supervision: the kind's name unless stated (EVALUATION.md)."""
        return kind

    def describe(self, observation: Observation) -> Image | str:
        """A picture or a sentence of one observation on the model's own grid, read or decoded (`mmvae show`)."""
        return f"{int(observation.mask.sum())} of {observation.mask.numel()} measured"


def __getattr__(name: str) -> Any:
    """A name that stood here until 0.1."""
    return moved(__name__, name)
