"""Bounds on the log-likelihood of all present modalities, given a posterior of the visible ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmvae.latent.gaussian import Posterior

Score = Callable[[Float[Tensor, "S B D"]], Float[Tensor, "S B M"]]


@dataclass(frozen=True)
class Bound:
    """What a training step minimises, and its parts for the log, all in nats.

    loss: scalar; log_likelihood: (B, M), unweighted, expectation over the posterior; kl: (B,).
    """

    loss: Float[Tensor, ""]
    log_likelihood: Float[Tensor, "B M"]
    kl: Float[Tensor, " B"]


class Objective(ABC):
    """A bound; called with a posterior, a scoring function and weights."""

    @abstractmethod
    def samples(self, components: int) -> int:
        """How many standard normal draws a case the bound takes for a posterior of so many components."""

    @abstractmethod
    def __call__(
        self,
        posterior: Posterior,
        score: Score,
        weights: Float[Tensor, " M"],
        noise: Float[Tensor, "B S D"],
        epoch: int,
    ) -> Bound:
        """The bound; `score(z)` is each case's log p(x_m | z), 0 where absent."""


@dataclass(frozen=True)
class ELBO(Objective):
    r"""E_q[Σ_m w_m log p(x_m | z)] − β KL(q ‖ p), q the posterior of the visible, x all present modalities.

    One component: KL in closed form (Kingma & Welling 2014, arXiv:1312.6114, appendix B). A mixture: stratified, one sample
    a component weighed by its probability, KL by the same samples against the whole mixture's density
    (Shi et al. 2019, arXiv:1911.03393, eq. 4). With w = 1 and β = 1 and everything visible it bounds log p(x).

    Args:
        beta: Weight of the KL after warm-up (Higgins et al. 2017).
        warmup_epochs: β rises linearly from 0 to its value over so many epochs.
    """

    beta: float = 1.0
    warmup_epochs: int = 5

    def samples(self, components):
        return components

    def at(self, epoch: int) -> float:
        """β in this epoch (the first is 0)."""
        return self.beta * min(1.0, (epoch + 1) / (self.warmup_epochs + 1))

    def __call__(self, posterior, score, weights, noise, epoch):
        z = posterior.components.rsample(noise).transpose(0, 1)  # (K, B, D)
        weight = posterior.weight.T  # (K, B)
        # A void component has weight 0, but its sample may score inf: 0 · inf is NaN, so the mask goes first.
        by_component = torch.where((weight > 0)[..., None], score(z), 0)
        log_likelihood = (weight[..., None] * by_component).sum(0)
        if len(z) == 1:
            kl = posterior.components.kl_to_prior().sum(-1)[:, 0]
        else:
            log_prior = -0.5 * (z.square() + torch.log(torch.tensor(2 * torch.pi))).sum(-1)
            log_ratio = posterior.log_prob(z) - log_prior
            kl = (weight * torch.where(weight > 0, log_ratio, 0)).sum(0)
        loss = -(log_likelihood @ weights - self.at(epoch) * kl).mean()
        return Bound(loss, log_likelihood, kl)
