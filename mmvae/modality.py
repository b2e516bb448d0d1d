"""THE CONTRACT: what a kind of data says about itself so that core can train and search with it.

A modality is a recipe, not a network: a frozen dataclass whose fields are its YAML. It travels to every DataLoader worker
and into every checkpoint; weights live in the two modules that it builds.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from torch import nn

from mmvae.batch import Motion, Observation
from mmvae.case import Answers, Asset, Card, Case, InputError, View


@dataclass(frozen=True)
class TrainingViews:
    """What `fitted` may look at: the cohort's card and the role's views of the training cases, absent ones left out."""

    card: Card
    views: Sequence[View]


class Modality(ABC):
    """A recipe for one kind of data. Subclasses are frozen dataclasses, every field with a default."""

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

    def claims(self, facts: Mapping) -> float:
        """0…1: how surely an asset with these facts (`type` among them) is of my kind."""
        return 0.0

    def select(self, assets: Sequence[Asset]) -> Sequence[Asset]:
        """Which of the case's assets of my kind I use: the surest, then the one with most voxels, then by uri."""
        return sorted(assets, key=lambda a: (-(a.confidence or 0.0), -a.facts.get("voxels", 0), a.uri))[:1]

    def present(self, view: View) -> bool:
        """Whether the case has it; nothing is opened."""
        return bool(view.assets)

    def fitted(self, training: TrainingViews) -> "Modality":
        """The recipe with statistics, vocabulary or term list filled in as values."""
        return self

    def augment(self, seen: Observation, motion: Motion, generator: torch.Generator) -> Observation:
        """The same observation under the case's motion, and its own random variation."""
        return seen

    def misfits(self, view: View) -> Sequence[str]:
        """What this view holds that the fitted recipe does not know and treats as missing, e.g. a new category."""
        return ()

    def teaches(self, kind: str) -> str:
        """What an answer role of mine adds to a row's supervision: the kind's name unless stated (EVALUATION.md)."""
        return kind

    def describe(self, seen: Observation) -> Image | str:
        """A picture or a sentence of one observation on the model's own grid, read or decoded (`mmvae show`)."""
        return f"{int(seen.mask.sum())} of {seen.mask.numel()} measured"


def view_of(case: Case, root: Path, kind: str, recipe: Modality, answers: Answers, answer_role: bool) -> View:
    """What one role sees of a case; answers only where the role is listed as an answer role (EVALUATION.md)."""
    assets = tuple(asset for asset in case.assets if asset.kind == kind)
    if answer_role:
        taken = tuple(recipe.select(assets)) if assets else ()
        return View(root, taken, case.record, case.terms, case.labels, case.lesion, case.frame_mm)
    if kind in answers.kinds:
        assets = ()
    record = {name: value for name, value in case.record.items() if name not in answers.fields}
    terms = None if answers.terms else case.terms
    return View(
        root, tuple(recipe.select(assets)) if assets else (), record, terms, {}, case.lesion, case.frame_mm
    )


def to_plain(recipe: object) -> dict:
    """A frozen dataclass, and those within it, as class path and plain values, e.g. for a checkpoint."""

    def plain(value):
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        return to_plain(value) if is_dataclass(value) else value

    cls = type(recipe)
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {f.name: plain(getattr(recipe, f.name)) for f in fields(cls)},
    }


def from_plain(plain: Mapping) -> object:
    """The frozen dataclass that `to_plain` wrote."""

    def tuples(value):
        if isinstance(value, Mapping):
            return from_plain(value)
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    module, name = plain["class_path"].rsplit(".", 1)
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the checkpoint was made with {plain['class_path']}, which this environment cannot import ({error}); "
            "install the distribution that ships it (`mmvae modalities` lists those installed)"
        ) from error
    return cls(**{key: tuples(value) for key, value in plain["init_args"].items()})


def unfitted_difference(given: object, stored: object) -> list[str]:
    """Fields in which a bare recipe contradicts a fitted one: None in `given` means "to be fitted"."""
    if type(given) is not type(stored):
        return ["class_path"]
    pairs = [(f.name, getattr(given, f.name), getattr(stored, f.name)) for f in fields(type(given))]
    return [name for name, mine, theirs in pairs if mine is not None and mine != theirs]
