"""The random choices of a training step: which of a case's roles are visible, which are scored, and the noise."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmvae.seeds import seed_of


@dataclass(frozen=True)
class VisibilityDraw:
    """The random choices for a batch: one row per subset (N = B × subsets), the rows of a case adjacent.

    Args:
        visible: Which roles form the posterior.
        share: Factor on a role's log-likelihood under this subset; 0 is not decoded, and the expected mean over a case's subsets is 1.
        noise: Standard normal, as many draws as the objective asks for.
        halves: Two disjoint, non-empty parts (B, M) of each case's encoded roles; both empty if fewer than two are encoded.
    """

    visible: Bool[Tensor, "N M"]
    share: Float[Tensor, "N M"]
    noise: Float[Tensor, "N S D"]
    halves: tuple[Bool[Tensor, "B M"], Bool[Tensor, "B M"]]


def _halves(encoded: Bool[Tensor, " M"], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The encoded roles in random order, split at a random place into two parts."""
    order = torch.rand(len(encoded), generator=generator).masked_fill(~encoded, 2.0).argsort().argsort()
    count = int(encoded.sum())
    cut = 1 + int(torch.rand(1, generator=generator) * max(1, count - 1)) if count > 1 else 0
    first = encoded & (order < cut)
    return first, encoded & ~first & (cut > 0)


@dataclass(frozen=True)
class Visibility:
    """Draws visible subsets, keyed by case and epoch, so that the draws do not depend on the number of processes.

    Args:
        probability: Probability of each role of being encoded in a training step.
        answer: Which roles see answers: scored under each subset in training, never visible outside it.
        subsets: Number of visible subsets that a training step draws per case.
        scored: Probability that a training step scores a role that is not an answer role.
        seed: Seed of all draws.
    """

    probability: tuple[float, ...]
    answer: tuple[bool, ...]
    subsets: int
    scored: float
    seed: int

    def _generators(self, case_ids: Sequence[str], epoch: int) -> Iterator[torch.Generator]:
        for case_id in case_ids:
            yield torch.Generator().manual_seed(seed_of("step", self.seed, case_id, epoch))

    def training(
        self, case_ids: Sequence[str], present: Bool[Tensor, "B M"], samples: int, latent_dim: int, epoch: int
    ) -> VisibilityDraw:
        """Each present role is visible with its probability; if none is drawn, one present role is visible.

        A role that is not an answer role is scored under one of the subsets, with probability `scored`.

        Args:
            case_ids: Ids of the cases of the batch.
            present: Which roles each case has.
            samples: Number of noise draws per row.
            latent_dim: D.
            epoch: Part of the key, so that each epoch draws afresh.
        """
        probability, answer, subsets = torch.tensor(self.probability), torch.tensor(self.answer), self.subsets
        visible, share, noise, halves = [], [], [], []
        for case_present, generator in zip(present.cpu(), self._generators(case_ids, epoch)):
            for _ in range(subsets):
                subset = (torch.rand(len(probability), generator=generator) < probability) & case_present
                fallback = (
                    torch.rand(len(probability), generator=generator) * case_present * (probability > 0)
                )
                if not subset.any() and case_present.any():
                    subset[(fallback if fallback.any() else case_present.float()).argmax()] = True
                visible.append(subset)
                noise.append(torch.randn(samples, latent_dim, generator=generator))
            once = torch.arange(subsets)[:, None] == torch.randint(subsets, answer.shape, generator=generator)
            decoded = torch.rand(answer.shape, generator=generator) < self.scored
            share.append(torch.where(answer, 1.0, once * decoded * (subsets / self.scored)))
            halves.append(_halves(torch.stack(visible[-subsets:]).any(0), generator))
        return VisibilityDraw(
            torch.stack(visible).to(present.device),
            torch.cat(share).to(present.device),
            torch.stack(noise).to(present.device),
            _stacked(halves, present.device),
        )

    def evaluation(
        self, case_ids: Sequence[str], present: Bool[Tensor, "B M"], samples: int, latent_dim: int
    ) -> VisibilityDraw:
        """All present roles but the answer roles are visible, all are scored; the noise is the same at every epoch.

        Args:
            case_ids: Ids of the cases of the batch.
            present: Which roles each case has.
            samples: Number of noise draws per row.
            latent_dim: D.
        """
        visible = present & ~torch.tensor(self.answer, device=present.device)
        noise, halves = [], []
        for case_present, generator in zip(visible.cpu(), self._generators(case_ids, -1)):
            noise.append(torch.randn(samples, latent_dim, generator=generator))
            halves.append(_halves(case_present, generator))
        return VisibilityDraw(
            visible,
            torch.ones_like(present).float(),
            torch.stack(noise).to(present.device),
            _stacked(halves, present.device),
        )


def _stacked(halves: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = zip(*halves)
    return torch.stack(first).to(device), torch.stack(second).to(device)
