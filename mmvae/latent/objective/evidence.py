"""The interface of a training objective: it is called with the evidence of a batch and returns a bound."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmvae.latent.gaussian import Gaussian, Posterior

Score = Callable[[Float[Tensor, "S N D"]], Float[Tensor, "S N M"]]


@dataclass(frozen=True)
class Evidence:
    """All inputs of an objective: N rows, one per visible subset; the rows of each of the B cases are adjacent.

    Args:
        posterior: Joint posterior of each row's visible roles.
        experts: Experts of each case (B, M, D); the prior where a role was not encoded.
        encoded: Which roles were encoded: those visible in some row of the case.
        visible: Which roles are visible in each row.
        halves: Two disjoint, non-empty parts of each case's encoded roles; empty if it has fewer than two.
        score: z (S, N, D) → log p(x_m | z) of each row's case (S, N, M), 0 where absent.
        weights: Factor on each role's log-likelihood.
        noise: Standard normal, as many draws per row as the objective asked for.
        epoch: Number of the epoch, from 0.
        fuse: The rule that joined the experts: (experts, visible) → Posterior.
        values: The observed values of each role that the objective reads, flattened, and which of them were measured.
    """

    posterior: Posterior
    experts: Gaussian
    encoded: Bool[Tensor, "B M"]
    visible: Bool[Tensor, "N M"]
    halves: tuple[Bool[Tensor, "B M"], Bool[Tensor, "B M"]]
    score: Score
    weights: Float[Tensor, " M"]
    noise: Float[Tensor, "N S D"]
    epoch: int
    fuse: Callable[[Gaussian, Bool[Tensor, "B M"]], Posterior]
    values: Mapping[str, tuple[Float[Tensor, "B _"], Bool[Tensor, "B _"]]] = field(default_factory=dict)

    def by_row(self) -> Gaussian:
        """The experts of each row's case (N, M, D)."""
        times = len(self.visible) // len(self.encoded)
        return Gaussian(*(x.repeat_interleave(times, 0) for x in (self.experts.mean, self.experts.logvar)))


@dataclass(frozen=True)
class Bound:
    """What a training step minimises, and its parts for the log, all in nats.

    Args:
        loss: The value that is minimised.
        log_likelihood: Unweighted expectation under the posterior.
        kl: KL divergence of each row's posterior from the prior.
        parts: Further scalars to log, by name.
    """

    loss: Float[Tensor, ""]
    log_likelihood: Float[Tensor, "N M"]
    kl: Float[Tensor, " N"]
    parts: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Objective(ABC):
    """A training objective: called with the evidence of a batch, it returns a bound."""

    @abstractmethod
    def samples(self, components: int) -> int:
        """The number of standard normal draws per row for a posterior with this many components.

        Raises:
            ValueError: if the objective is not defined for this many.
        """

    def reads(self) -> tuple[str, ...]:
        """The roles whose values it reads."""
        return ()

    @abstractmethod
    def __call__(self, evidence: Evidence) -> Bound:
        """The bound of a batch."""


def log_prior(z: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
    """Log-density of the standard normal prior in nats."""
    return -0.5 * (z.square() + torch.log(torch.tensor(2 * torch.pi))).sum(-1)


def warmed_up(value: float, epochs: int, epoch: int) -> float:
    """A weight in this epoch: it rises linearly over the first epochs and is never 0."""
    return value * min(1.0, (epoch + 1) / (epochs + 1))
