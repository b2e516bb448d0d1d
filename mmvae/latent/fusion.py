"""Fusion rules: a mixture of products of powers of Gaussian experts, in closed form.

Component k of the joint posterior is ∝ Π_m q_m(z)^{a_km} · p(z)^{a_k,M+1} with the standard normal prior p. `Products`
does the arithmetic; a rule only states exponents.
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
    """A rule that joins experts into one posterior: called with (experts, present), it states exponents.

    Where its class says `learns_power` the model learns one positive power a role and hands them to every call.
    """

    learns_power = False

    @abstractmethod
    def exponents(
        self, experts: Gaussian, present: Bool[Tensor, "B M"], power: Float[Tensor, " M"]
    ) -> Exponents:
        """Exponents (B, K, M + 1), the last the prior's, and log-weights (B, K), not yet normalised."""

    def __call__(
        self, experts: Gaussian, present: Bool[Tensor, "B M"], power: Float[Tensor, " M"] | None = None
    ) -> Posterior:
        """The joint posterior of the present experts (B, M, D); float32 whatever the autocast.

        An absent expert counts as the prior before the rule sees it: its values, NaN included, never matter.
        Where every expert is absent the posterior is the prior.
        """
        with torch.autocast(experts.mean.device.type, enabled=False):
            here = present[..., None]
            mean = torch.where(here, experts.mean, 0).float()
            logvar = torch.where(here, experts.logvar, 0).float()
            if power is None:
                power = torch.ones(present.shape[1], device=mean.device)
            exponent, log_weight = self.exponents(Gaussian(mean, logvar), present, power)
            prior = torch.zeros_like(mean[:, :1])
            all_experts = Gaussian(torch.cat([mean, prior], 1), torch.cat([logvar, prior], 1))
            return Posterior(Products(all_experts, exponent), torch.log_softmax(log_weight, -1))


def void_is_prior(exponent: Float[Tensor, "B K M"], void: Bool[Tensor, "B K"]) -> Exponents:
    """Exponents with the prior's column, equal log-weights: a void component has only the prior and weight 0.

    Where all components of a case are void all have log-weight 0, so its posterior is the prior and nothing is NaN.
    """
    exponent = torch.cat([torch.where(void[..., None], 0, exponent), void[..., None].to(exponent.dtype)], -1)
    log_weight = torch.where(void & ~void.all(-1, keepdim=True), -torch.inf, 0.0)
    return exponent, log_weight.to(exponent.dtype)


@dataclass(frozen=True)
class PoE(Fusion):
    """Product of the present experts and, by default, the prior (Wu & Goodman 2018, arXiv:1802.05335, eq. 3).

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
    """Logarithmic opinion pool: exponents are the present roles' learned powers over their sum, no prior expert (Genest & Zidek 1986).

    Agreement of many roles does not sharpen it: with equal experts the pool is that expert.
    """

    learns_power = True

    def exponents(self, experts, present, power):
        share = present * power
        share = share / share.sum(-1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        return void_is_prior(share[:, None], ~present.any(-1, keepdim=True))


@dataclass(frozen=True)
class MoE(Fusion):
    """Equal mixture of the present experts (Shi et al. 2019, arXiv:1911.03393, eq. 1)."""

    def exponents(self, experts, present, power):
        return void_is_prior(torch.diag_embed(present * power), ~present)


@dataclass(frozen=True)
class MoPoE(Fusion):
    """Equal mixture of the products of every non-empty subset of the present experts (Sutter et al. 2021, arXiv:2105.02470, eq. 5).

    K = 2^M − 1 components for M modalities, always all of them.
    """

    def exponents(self, experts, present, power):
        count = present.shape[1]
        subsets = torch.arange(1, 2**count, device=present.device)
        member = (subsets[:, None] >> torch.arange(count, device=present.device)) & 1 == 1  # (K, M)
        void = (member & ~present[:, None]).any(-1)
        return void_is_prior((member * power).expand(len(present), -1, -1), void)


@dataclass(frozen=True)
class Hellinger(Fusion):
    r"""Hölder pool with α = ½ of the present experts, equal weights: q ∝ (Σ_m √q_m)², exactly (Vo & Valera 2026, arXiv:2601.06572).

    The square multiplied out is a mixture of every pair i ≤ j, ∝ √(q_i q_j): weight 1 where i = j, else twice the pair's
    Bhattacharyya coefficient. Their moment-matched form is `MomentMatched(Hellinger())`.
    """

    def exponents(self, experts, present, power):
        count = present.shape[1]
        i, j = torch.triu_indices(count, count, device=present.device)
        mean, logvar = experts.mean, experts.logvar
        variance = torch.logaddexp(logvar[:, i], logvar[:, j]) - torch.log(
            torch.tensor(2.0)
        )  # log of the average
        distance = (mean[:, i] - mean[:, j]).square() * (-variance).exp() / 8
        coefficient = -(distance + (variance - (logvar[:, i] + logvar[:, j]) / 2) / 2).sum(-1)
        one = torch.eye(count, device=present.device)
        exponent, log_weight = void_is_prior(
            ((one[i] + one[j]) / 2).expand(len(present), -1, -1), ~(present[:, i] & present[:, j])
        )
        pair = torch.where(i == j, 0.0, torch.log(torch.tensor(2.0)) + coefficient)
        return exponent, torch.where(present.any(-1, keepdim=True), log_weight + pair, log_weight)


class Derived(Fusion):
    """A posterior made from that of another rule, the field `rule`; its exponents are that rule's."""

    rule: Fusion

    def exponents(self, experts, present, power):
        return self.rule.exponents(experts, present, power)

    @abstractmethod
    def __call__(self, experts, present, power=None):
        """The posterior, made from `self.rule(experts, present, power)`."""


@dataclass(frozen=True)
class MomentMatched(Derived):
    """The one Gaussian with the mean and variance of another rule's mixture.

    Args:
        rule: Whose posterior is matched.
    """

    rule: Fusion = Hellinger()

    def __call__(self, experts, present, power=None):
        one = self.rule(experts, present, power).moment_matched()
        return Posterior(Gaussian(one.mean[:, None], one.logvar[:, None]), torch.zeros_like(one.mean[:, :1]))


@dataclass(frozen=True)
class Powered(Derived):
    """A rule with the powers that a model has learned, as embeddings and indexes keep it.

    Args:
        rule: One that learns powers.
        power: Positive, one a role.
    """

    rule: Fusion = TemperedPoE()
    power: tuple[float, ...] = ()

    def __call__(self, experts, present, power=None):
        return self.rule(experts, present, torch.tensor(self.power, device=present.device))


@dataclass(frozen=True)
class Projected(Derived):
    """A rule's posterior seen through an affine map, u = A z + c: the exact mean and the marginal variances of u.

    Args:
        rule: Whose posterior is mapped.
        matrix: A, (U, D) row by row.
        offset: c, (U,).
    """

    rule: Fusion = PoE()
    matrix: tuple[tuple[float, ...], ...] = ()
    offset: tuple[float, ...] = ()

    def __call__(self, experts, present, power=None):
        z = self.rule(experts, present, power)
        with torch.autocast(present.device.type, enabled=False):
            matrix = torch.tensor(self.matrix, device=present.device)
            mean = z.components.mean @ matrix.T + torch.tensor(self.offset, device=present.device)
            variance = z.components.logvar.exp() @ matrix.square().T
            return Posterior(Gaussian(mean, variance.log()), z.log_weight)


@dataclass(frozen=True)
class Sharpened(Derived):
    """The posterior mean with each coordinate raised, sign(u) |u|^p, and its variance to first order: what is unusual counts more.

    A cosine of such points rests on the few coordinates in which both are far from the usual, as a radiologist's
    comparison does; a sum over all counts many small agreements as much as one striking one.

    Args:
        rule: Whose mean is raised.
        exponent: p, above 0.
    """

    rule: Fusion = Projected()
    exponent: float = 1.5

    def __call__(self, experts, present, power=None):
        one = self.rule(experts, present, power).moment_matched()
        with torch.autocast(present.device.type, enabled=False):
            size = one.mean.abs()
            mean = one.mean.sign() * size**self.exponent
            slope = self.exponent * size.clamp_min(1e-6) ** (self.exponent - 1)
            logvar = one.logvar + 2 * slope.log()
            return Posterior(Gaussian(mean[:, None], logvar[:, None]), torch.zeros_like(mean[:, :1]))
