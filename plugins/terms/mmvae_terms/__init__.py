"""The terms modality: a case's findings as controlled terms, each stated, denied or not mentioned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.batch import Observation
from mmvae.blocks.answers import AnswerDecoder
from mmvae.case import View
from mmvae.errors import InputError
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality, TrainingViews


class _Encoder(nn.Module):
    def __init__(self, count: int, latent_dim: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2 * count, 128), nn.LayerNorm(128), nn.SiLU(), nn.Linear(128, 2 * latent_dim)
        )

    def forward(self, value: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Gaussian:
        signed = torch.where(mask, 2 * value - 1, 0)
        mean, logvar = self.body(torch.cat([signed, mask.to(value.dtype)], 1)).chunk(2, -1)
        return Gaussian(mean, logvar.clamp(-10, 6))


@dataclass(frozen=True)
class Terms(Modality):
    """Terms (T,) of a case: 1 if stated, 0 if denied; the mask is False if the case is silent on the term.

    A parent that is not itself a term is a question, and its children are the answers: a case that gives none of them is
    silent on all. A term without such a parent counts as denied if it is not listed (a closed list).

    Args:
        source: `terms`, or `labels` for a role made from one label (supervision "labels").
        label: The label, if `source` is `labels`.
        file: YAML list of names, or of {name, parent}; None takes the card's list.
        names: The terms. None until fitted.
        parents: The parent of each term, "" if it has none. None until fitted.
        share: Share of cases that state the term among the training cases that answer, smoothed away from 0 and 1. None until
            fitted.
    """

    source: Literal["terms", "labels"] = "terms"
    label: str | None = None
    file: str | None = None
    names: tuple[str, ...] | None = None
    parents: tuple[str, ...] | None = None
    share: tuple[float, ...] | None = None

    def fitted(self, training: TrainingViews) -> "Terms":
        if self.source == "labels":
            if self.label is None:
                raise InputError("Terms has source: labels and no label; name one of the card's targets")
            names = sorted({name for view in training.views for name in self._listed(view) or ()})
            if not names:
                raise InputError(
                    f"Terms finds the label {self.label!r} in no training case; the card's targets are "
                    f"{list(training.card.targets)}, and a role made from a label must be listed in model.answer_roles"
                )
            listed = [{"name": name, "parent": self.label} for name in names]
            return self._counted(listed, training)
        listed = _terms_in(self.file) if self.file else list(training.card.terms)
        if not listed:
            raise InputError(
                "the cohort's card lists no terms and Terms.file is not set; give one of the two, or drop the role"
            )
        return self._counted(listed, training)

    def _counted(self, listed: Sequence[Mapping[str, Any]], training: TrainingViews) -> "Terms":
        named = replace(
            self, names=tuple(t["name"] for t in listed), parents=tuple(t.get("parent") or "" for t in listed)
        )
        stated, answered = torch.zeros(len(listed)), torch.zeros(len(listed))
        for view in training.views:
            observation = named.read(view)
            stated, answered = stated + observation.value, answered + observation.mask
        return replace(named, share=tuple(((stated + 0.5) / (answered + 1)).tolist()))

    def _listed(self, view: View) -> set[str] | None:
        """The terms that a case states; None if it lists none."""
        if self.source == "labels":
            return {str(view.labels[self.label])} if self.label and self.label in view.labels else None
        return set(view.terms) if view.terms is not None else None

    def _fitted(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...]]:
        """Names, parents and shares of a fitted recipe; shares are empty while they are being counted."""
        if self.names is None or self.parents is None:
            raise InputError("Terms is not fitted yet; call fitted(...) with the training views first")
        return self.names, self.parents, self.share or ()

    def present(self, view: View) -> bool:
        return self._listed(view) is not None

    def read(self, view: View) -> Observation:
        names, parents, _ = self._fitted()
        listed = self._listed(view)
        if listed is None:
            return self.blank()
        answered = {parent for name, parent in zip(names, parents) if name in listed}
        mask = [parent in answered or parent == "" or parent in names for parent in parents]
        value = torch.tensor([float(name in listed) for name in names])
        return Observation(value, torch.tensor(mask)).clean()

    def misfits(self, view: View) -> list[str]:
        unknown = sorted((self._listed(view) or set()) - set(self.names or ()))
        return [f"the term {name!r} was never seen in training" for name in unknown]

    def blank(self) -> Observation:
        count = len(self._fitted()[0])
        return Observation(torch.zeros(count), torch.zeros(count, dtype=torch.bool))

    def teaches(self, kind: str) -> str:
        return "labels" if self.source == "labels" else "findings"

    def encoder(self, latent_dim: int) -> nn.Module:
        return _Encoder(len(self._fitted()[0]), latent_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        # The probability of each term, standardised, so that a rare term counts as much as a common one.
        share = torch.tensor(self._fitted()[2])
        return AnswerDecoder(share, (share * (1 - share)).sqrt(), latent_dim)

    def render(self, view: View) -> str:
        return "; ".join(sorted(self._listed(view) or ())) or "no finding stated"

    def describe(self, observation: Observation) -> str:
        names, order = self._fitted()[0], observation.value.argsort(descending=True)
        stated = [
            f"{names[n]} {float(observation.value[n]):.2f}"
            for n in order.tolist()
            if observation.mask[n] and observation.value[n] >= 0.5
        ]
        return "; ".join(stated) or "no finding"


def _terms_in(file: str) -> list[Mapping[str, Any]]:
    """Names and parents of a YAML list."""
    try:
        plain = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"Terms.file {file!r} cannot be read: {error}".splitlines()[0]) from error
    listed: list[Any] = [{"name": item} if isinstance(item, str) else item for item in plain or []]
    if not listed or any(not isinstance(item, dict) or "name" not in item for item in listed):
        raise InputError(f"Terms.file {file!r}: expected a list of names or of {{name, parent}}")
    return listed
