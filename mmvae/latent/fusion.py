"""Fusion rules: each joins Gaussian experts into a mixture of products of their powers, in closed form.

Component k of the joint posterior is ∝ Π_m q_m(z)^{a_km} · p(z)^{a_k,M+1} with the standard normal prior p. `Products`
does the arithmetic; a rule only specifies the exponents.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.product import Products

Exponents = tuple[Float[Tensor, "B K M1"], Float[Tensor, "B K"]]


class Fusion(ABC):
    """A rule that joins experts into one posterior.

    Calling it with (experts, present) returns the posterior; a subclass only specifies the exponents. If its class sets
    `learns_power`, the model learns one positive power per role and passes them to every call.
    """

    learns_power = False

    @abstractmethod
    def exponents(
        self, experts: Gaussian, present: Bool[Tensor, "B M"], power: Float[Tensor, " M"]
    ) -> Exponents:
        """Exponents (B, K, M + 1), the last being the prior's, and unnormalised log-weights (B, K)."""

    def __call__(
        self, experts: Gaussian, present: Bool[Tensor, "B M"], power: Float[Tensor, " M"] | None = None
    ) -> Posterior:
        """The joint posterior of the present experts, computed in float32 whatever the autocast.

        An absent expert is replaced by the prior before the rule is applied: its values, NaN included, never matter.
        If every expert is absent, the posterior is the prior.

        Args:
            experts: Gaussians (B, M, D).
            present: Which experts take part.
            power: One positive exponent per role; 1 unless given.
        """
        with torch.autocast(experts.mean.device.type, enabled=False):
            mask = present[..., None]
            mean = torch.where(mask, experts.mean, 0).float()
            logvar = torch.where(mask, experts.logvar, 0).float()
            if power is None:
                power = torch.ones(present.shape[1], device=mean.device)
            exponent, log_weight = self.exponents(Gaussian(mean, logvar), present, power)
            prior = torch.zeros_like(mean[:, :1])
            all_experts = Gaussian(torch.cat([mean, prior], 1), torch.cat([logvar, prior], 1))
            return Posterior(Products(all_experts, exponent), torch.log_softmax(log_weight, -1))


def void_is_prior(exponent: Float[Tensor, "B K M"], void: Bool[Tensor, "B K"]) -> Exponents:
    """Exponents with the prior's column appended, and equal log-weights; a void component is the prior with weight 0.

    If all components of a case are void, all have log-weight 0, so that its posterior is the prior and not NaN.
    """
    exponent = torch.cat([torch.where(void[..., None], 0, exponent), void[..., None].to(exponent.dtype)], -1)
    log_weight = torch.where(void & ~void.all(-1, keepdim=True), -torch.inf, 0.0)
    return exponent, log_weight.to(exponent.dtype)


@dataclass(frozen=True)
class PoE(Fusion):
    """Product of the present experts and, by default, the prior (Wu & Goodman 2018, arXiv:1802.05335, eq. 3).

    >>> experts = Gaussian(torch.tensor([[[2.0], [4.0]]]), torch.zeros(1, 2, 1))  # N(2, 1) and N(4, 1)
    >>> both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    >>> PoE(prior_expert=False)(experts, both).mean.item()
    3.0
    >>> PoE()(experts, first).mean.item()  # with the prior N(0, 1) as a further expert
    1.0

    Args:
        prior_expert: Whether the standard normal prior is one of the experts.
    """

    prior_expert: bool = True

    def exponents(self, experts, present, power):
        exponent, log_weight = void_is_prior((present * power)[:, None], ~present.any(-1, keepdim=True))
        if self.prior_expert:
            exponent = torch.cat([exponent[..., :-1], torch.ones_like(exponent[..., -1:])], -1)
        return exponent, log_weight


@dataclass(frozen=True)
class TemperedPoE(Fusion):
    """Logarithmic opinion pool without a prior expert (Genest & Zidek 1986).

    The exponent of a present role is its learned power divided by the sum of the powers of all present roles. Agreement
    between many roles does not sharpen the pool: if all experts are equal, the pool is that expert.
    """

    learns_power = True

    def exponents(self, experts, present, power):
        share = present * power
        share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        return void_is_prior(share[:, None], ~present.any(-1, keepdim=True))


@dataclass(frozen=True)
class MoE(Fusion):
    """Equal mixture of the present experts (Shi et al. 2019, arXiv:1911.03393, eq. 1).

    >>> experts = Gaussian(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.zeros(1, 3, 1))
    >>> posterior = MoE()(experts, torch.tensor([[True, True, False]]))
    >>> posterior.weight.tolist(), posterior.mean.item()
    ([[0.5, 0.5, 0.0]], 3.0)
    """

    def exponents(self, experts, present, power):
        return void_is_prior(torch.diag_embed(present * power), ~present)


@dataclass(frozen=True)
class MoPoE(Fusion):
    """Equal mixture of the products of every non-empty subset of the present experts (Sutter et al. 2021, arXiv:2105.02470, eq. 5).

    It always has all K = 2^M − 1 components for M modalities.

    >>> experts = Gaussian(torch.tensor([[[2.0], [5.0], [9.0]]]), torch.zeros(1, 3, 1))
    >>> posterior = MoPoE()(experts, torch.tensor([[True, True, False]]))
    >>> posterior.weight.shape, (posterior.weight > 0).sum().item()
    (torch.Size([1, 7]), 3)
    >>> round(posterior.mean.item(), 4)  # of the means 2, 5 and, of their product, 3.5
    3.5
    """

    def exponents(self, experts, present, power):
        count = present.shape[1]
        subsets = torch.arange(1, 2**count, device=present.device)
        is_member = (subsets[:, None] >> torch.arange(count, device=present.device)) & 1 == 1  # (K, M)
        void = (is_member & ~present[:, None]).any(-1)
        return void_is_prior((is_member * power).expand(len(present), -1, -1), void)


@dataclass(frozen=True)
class Hellinger(Fusion):
    r"""Hölder pool with α = ½ of the present experts, equal weights: q ∝ (Σ_m √q_m)², exactly (Vo & Valera 2026, arXiv:2601.06572).

    Multiplied out, the square is a mixture of √(q_i q_j) over all pairs i ≤ j, with weight 1 if i = j and otherwise twice
    the Bhattacharyya coefficient of the pair. The paper's moment-matched form is `MomentMatched(Hellinger())`.
    """

    def exponents(self, experts, present, power):
        count = present.shape[1]
        i, j = torch.triu_indices(count, count, device=present.device)
        mean, logvar = experts.mean, experts.logvar
        log_average = torch.logaddexp(logvar[:, i], logvar[:, j]) - torch.log(torch.tensor(2.0))
        distance = (mean[:, i] - mean[:, j]).square() * (-log_average).exp() / 8
        log_coefficient = -(distance + (log_average - (logvar[:, i] + logvar[:, j]) / 2) / 2).sum(-1)
        one_hot = torch.eye(count, device=present.device)
        exponent, log_weight = void_is_prior(
            ((one_hot[i] + one_hot[j]) / 2).expand(len(present), -1, -1), ~(present[:, i] & present[:, j])
        )
        pair = torch.where(i == j, 0.0, torch.log(torch.tensor(2.0)) + log_coefficient)
        return exponent, torch.where(present.any(-1, keepdim=True), log_weight + pair, log_weight)


@dataclass(frozen=True)
class MomentMatched(Fusion):
    """The single Gaussian with the mean and variance of another rule's mixture.

    Args:
        rule: The rule whose posterior is matched.
    """

    rule: Fusion = Hellinger()

    def exponents(self, experts, present, power):
        return self.rule.exponents(experts, present, power)

    def __call__(self, experts, present, power=None):
        matched = self.rule(experts, present, power).moment_matched()
        components = Gaussian(matched.mean[:, None], matched.logvar[:, None])
        return Posterior(components, torch.zeros_like(matched.mean[:, :1]))
