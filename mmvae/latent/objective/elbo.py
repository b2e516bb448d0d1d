"""The evidence lower bound (Kingma & Welling 2014), with three ways to take a mixture's expectation."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmvae.latent.gaussian import Posterior
from mmvae.latent.objective.evidence import Bound, Objective, log_prior, warmed_up


@dataclass(frozen=True)
class ELBO(Objective):
    r"""E_q[Σ_m w_m log p(x_m | z)] − β KL(q ‖ p), where q is the posterior of the visible roles and x all present roles.

    With one component the KL is in closed form (Kingma & Welling 2014, arXiv:1312.6114, appendix B). If w = 1, β = 1 and
    every role is visible, it is a lower bound on log p(x).

    >>> ELBO(beta=2.0, warmup_epochs=1).at(epoch=0), ELBO(beta=2.0, warmup_epochs=1).at(epoch=1)
    (1.0, 2.0)
    >>> ELBO().samples(components=3), ELBO(components="sampled").samples(components=3)
    (3, 2)

    Args:
        beta: Weight of the KL after warm-up (Higgins et al. 2017).
        warmup_epochs: Number of epochs over which β rises linearly to its value.
        components: How a mixture's expectation is estimated. `stratified`: one sample per component, weighted by its
            probability; the KL uses the same samples and the whole mixture's density (Shi et al. 2019, arXiv:1911.03393, eq. 4).
            `sampled`: one sample of one component drawn by its probability; the same expectation with one decoding.
            `all`: the average of each component's own ELBO, with the KL in closed form; a looser bound, since KL is convex
            (Sutter et al. 2021, arXiv:2105.02470, eq. 6).
    """

    beta: float = 1.0
    warmup_epochs: int = 5
    components: Literal["stratified", "sampled", "all"] = "stratified"

    def samples(self, components):
        return components if self.components != "sampled" or components == 1 else 2

    def at(self, epoch: int) -> float:
        """β in this epoch; it is not 0 in the first."""
        return warmed_up(self.beta, self.warmup_epochs, epoch)

    def __call__(self, evidence):
        posterior, weight = evidence.posterior, evidence.posterior.weight.T  # (K, N)
        if self.components == "sampled" and len(weight) > 1:
            posterior, weight = (
                _one_component(posterior, evidence.noise[:, 1, 0]),
                torch.ones_like(weight[:1]),
            )
        z = posterior.components.rsample(evidence.noise[:, : len(weight)]).transpose(0, 1)  # (K, N, D)
        # A void component has weight 0, but its sample may score inf: 0 · inf is NaN, so the mask goes first.
        score = torch.where((weight > 0)[..., None], evidence.score(z), 0)
        log_likelihood = (weight[..., None] * score).sum(0)
        if evidence.posterior.log_weight.shape[1] == 1 or self.components == "all":
            by_component = evidence.posterior.components.kl_to_prior().sum(-1).T
        else:
            by_component = evidence.posterior.log_prob(z) - log_prior(z)
        kl = (weight * torch.where(weight > 0, by_component, 0)).sum(0)
        loss = -(log_likelihood @ evidence.weights - self.at(evidence.epoch) * kl).mean()
        return Bound(loss, log_likelihood, kl)


def _one_component(posterior: Posterior, noise: Float[Tensor, " N"]) -> Posterior:
    """One component per row, drawn by its probability; the standard normal's distribution function makes the noise uniform."""
    uniform = torch.special.ndtr(noise.double())[:, None]
    above = posterior.weight.double().cumsum(1)
    last = (posterior.weight > 0).long() * torch.arange(posterior.weight.shape[1], device=noise.device)
    at = torch.minimum((above < uniform * above[:, -1:]).sum(1), last.max(1).values)
    return Posterior(posterior.components.at(at), torch.zeros_like(posterior.log_weight[:, :1]))
