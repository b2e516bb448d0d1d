"""What a training step maximises: bounds on the log-likelihood of all present modalities, given a posterior of the visible ones."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmvae.latent.gaussian import Gaussian, Posterior

Score = Callable[[Float[Tensor, "S N D"]], Float[Tensor, "S N M"]]


@dataclass(frozen=True)
class Evidence:
    """What an objective may look at: N rows, one a visible subset, the subsets of one of B cases side by side.

    Args:
        posterior: Of each row's visible roles.
        experts: Of each case (B, M, D); the prior where a role was not encoded.
        encoded: Which roles were encoded: those visible in some row of the case.
        visible: Each row's own.
        halves: Two disjoint, non-empty parts of each case's encoded roles; empty where it has fewer than two.
        score: z (S, N, D) → log p(x_m | z) of each row's case (S, N, M), 0 where absent.
        weights: Factor on each role's log-likelihood.
        noise: Standard normal, so many draws a row as the objective takes.
        epoch: From 0.
        fuse: What joined the experts: (experts, visible) → Posterior.
        values: What was seen of each role, flat, and which of it was measured.
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

    loss: scalar; log_likelihood: (N, M), unweighted, expectation over the posterior; kl: (N,); parts: further scalars by name.
    """

    loss: Float[Tensor, ""]
    log_likelihood: Float[Tensor, "N M"]
    kl: Float[Tensor, " N"]
    parts: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Objective(ABC):
    """Called with the evidence of a batch; gives a bound."""

    @abstractmethod
    def samples(self, components: int) -> int:
        """How many standard normal draws a row it takes for a posterior of so many components.

        Raises:
            ValueError: where it is not defined for so many.
        """

    def reads(self) -> tuple[str, ...]:
        """Roles whose values it looks at."""
        return ()

    @abstractmethod
    def __call__(self, seen: Evidence) -> Bound:
        """The bound of a batch."""


def _log_prior(z: Float[Tensor, "*S D"]) -> Float[Tensor, "*S"]:
    return -0.5 * (z.square() + torch.log(torch.tensor(2 * torch.pi))).sum(-1)


def _warm(value: float, epochs: int, epoch: int) -> float:
    return value * min(1.0, (epoch + 1) / (epochs + 1))


@dataclass(frozen=True)
class ELBO(Objective):
    r"""E_q[Σ_m w_m log p(x_m | z)] − β KL(q ‖ p), q the posterior of the visible, x all present modalities.

    One component: KL in closed form (Kingma & Welling 2014, arXiv:1312.6114, appendix B). With w = 1 and β = 1 and
    everything visible it bounds log p(x).

    Args:
        beta: Weight of the KL after warm-up (Higgins et al. 2017).
        warmup_epochs: β rises linearly from 0 to its value over so many epochs.
        components: How a mixture's expectation is taken. `stratified`: one sample a component weighed by its probability,
            KL by the same samples against the whole mixture's density (Shi et al. 2019, arXiv:1911.03393, eq. 4).
            `sampled`: one sample of one component, drawn by its probability: the same expectation, one decoding.
            `all`: each component's own ELBO, KL in closed form, averaged; looser, since KL is convex (Sutter et al. 2021,
            arXiv:2105.02470, eq. 6).
    """

    beta: float = 1.0
    warmup_epochs: int = 5
    components: Literal["stratified", "sampled", "all"] = "stratified"

    def samples(self, components):
        return components if self.components != "sampled" or components == 1 else 2

    def at(self, epoch: int) -> float:
        """β in this epoch (the first is not 0)."""
        return _warm(self.beta, self.warmup_epochs, epoch)

    def __call__(self, seen):
        posterior, weight = seen.posterior, seen.posterior.weight.T  # (K, N)
        if self.components == "sampled" and len(weight) > 1:
            posterior, weight = _drawn(posterior, seen.noise[:, 1, 0]), torch.ones_like(weight[:1])
        z = posterior.components.rsample(seen.noise[:, : len(weight)]).transpose(0, 1)  # (K, N, D)
        # A void component has weight 0, but its sample may score inf: 0 · inf is NaN, so the mask goes first.
        by_component = torch.where((weight > 0)[..., None], seen.score(z), 0)
        log_likelihood = (weight[..., None] * by_component).sum(0)
        if seen.posterior.log_weight.shape[1] == 1 or self.components == "all":
            each = seen.posterior.components.kl_to_prior().sum(-1).T
        else:
            each = seen.posterior.log_prob(z) - _log_prior(z)
        kl = (weight * torch.where(weight > 0, each, 0)).sum(0)
        loss = -(log_likelihood @ seen.weights - self.at(seen.epoch) * kl).mean()
        return Bound(loss, log_likelihood, kl)


def _drawn(posterior: Posterior, noise: Float[Tensor, " N"]) -> Posterior:
    """One component of each row, by its probability; a standard normal's distribution function makes the noise uniform."""
    uniform = torch.special.ndtr(noise.double())[:, None]
    above = posterior.weight.double().cumsum(1)
    last = (posterior.weight > 0).long() * torch.arange(posterior.weight.shape[1], device=noise.device)
    at = torch.minimum((above < uniform * above[:, -1:]).sum(1), last.max(1).values)
    return Posterior(posterior.components.at(at), torch.zeros_like(posterior.log_weight[:, :1]))


@dataclass(frozen=True)
class IWAE(Objective):
    r"""log Σ_k π_k (1/S) Σ_s p(x | z_ks)^w p(z_ks) / q(z_ks), S samples a component, q the whole mixture.

    Burda et al. 2016, arXiv:1509.00519, eq. 8; a mixture's samples are stratified (Shi et al. 2019, arXiv:1911.03393; Morningstar
    et al. 2021, arXiv:2003.01687, eq. 9). The bound rises with S to log p(x).

    Args:
        importance_samples: S.
    """

    importance_samples: int = 8

    def samples(self, components):
        return components * self.importance_samples

    def __call__(self, seen):
        log_ratio, log_likelihood, kl = _importance(seen, self.importance_samples, seen.posterior)
        return Bound(-torch.logsumexp(log_ratio, 0).mean(), log_likelihood, kl)


@dataclass(frozen=True)
class DReG(Objective):
    """The same bound with the doubly reparameterised gradient of the encoders (Tucker et al. 2019, arXiv:1810.04152, eq. 8).

    The posterior's own parameters are held still in its density, and a sample's gradient counts by its squared weight.

    Args:
        importance_samples: Samples a component.
    """

    importance_samples: int = 8

    def samples(self, components):
        return components * self.importance_samples

    def __call__(self, seen):
        still = seen.posterior.components
        density = Posterior(
            Gaussian(still.mean.detach(), still.logvar.detach()), seen.posterior.log_weight.detach()
        )
        log_ratio, log_likelihood, kl = _importance(
            seen, self.importance_samples, density, scale_gradient=True
        )
        share = log_ratio.detach().softmax(0)
        value = torch.logsumexp(log_ratio.detach(), 0)
        # The value is the bound's, the gradient that of Σ share · log_ratio.
        pseudo = (share * torch.where(share > 0, log_ratio, 0)).sum(0)
        return Bound(-(value + pseudo - pseudo.detach()).mean(), log_likelihood, kl)


def _importance(
    seen: Evidence, count: int, density: Posterior, scale_gradient: bool = False
) -> tuple[Float[Tensor, "S N"], Float[Tensor, "N M"], Float[Tensor, " N"]]:
    """log(π_k/S · p(x, z)/q(z)) of every sample, expected log-likelihood, and KL by the samples."""
    each = seen.posterior.components
    components = seen.posterior.log_weight.shape[1]
    noise = seen.noise.unflatten(1, (count, components))  # (N, S, K, D)
    z = each.mean[:, None] + (each.logvar / 2).exp()[:, None] * noise
    z = z.flatten(1, 2).transpose(0, 1)  # (S · K, N, D)
    prior_share = (seen.posterior.log_weight.detach().T - torch.log(torch.tensor(float(count)))).repeat(
        count, 1
    )
    shares: list[Tensor] = []
    if scale_gradient and z.requires_grad:
        z.register_hook(lambda gradient: gradient * shares[0][..., None])
    here = prior_share > -torch.inf
    score = torch.where(here[..., None], seen.score(z), 0)
    log_q, log_p = density.log_prob(z), _log_prior(z)
    log_ratio = torch.where(here, score @ seen.weights + log_p - log_q + prior_share, -torch.inf)
    shares.append(log_ratio.detach().softmax(0))
    chance = prior_share.exp()
    kl = (chance * torch.where(here, log_q - log_p, 0)).sum(0)
    return log_ratio, (chance[..., None] * score).sum(0), kl


@dataclass(frozen=True)
class TotalCorrelation(Objective):
    r"""The MVTCAE bound (Hwang et al. 2021, NeurIPS, "Multi-view representation learning via total correlation objective").

    (n − α)/n · E_q[Σ_m w_m log p(x_m | z)] − β ((1 − α) KL(q ‖ p) + α/n Σ_m KL(q ‖ q_m)), n the number of visible roles and
    q_m their experts. Published with a product of experts without prior. With α = 0 it is the ELBO.

    Args:
        alpha: Share of the conditional terms, 0 to 1.
        beta: Weight of the KL terms after warm-up.
        warmup_epochs: β rises linearly from 0 to its value over so many epochs.
    """

    alpha: float = 0.9
    beta: float = 1.0
    warmup_epochs: int = 5

    def samples(self, components):
        if components > 1:
            raise ValueError(
                f"TotalCorrelation needs a posterior of one Gaussian; the fusion has {components} components. "
                "Choose PoE, TemperedPoE or MomentMatched"
            )
        return 1

    def __call__(self, seen):
        q = seen.posterior.components
        z = q.rsample(seen.noise[:, :1]).transpose(0, 1)
        log_likelihood = seen.score(z)[0]
        kl = q.kl_to_prior().sum(-1)[:, 0]
        experts = seen.by_row()
        ratio = (q.logvar - experts.logvar).exp() + (q.mean - experts.mean).square() * (-experts.logvar).exp()
        to_experts = 0.5 * (ratio - 1 - q.logvar + experts.logvar).sum(-1)  # (N, M)
        count = seen.visible.sum(1).clamp_min(1)
        conditional = torch.where(seen.visible, to_experts, 0).sum(1) / count
        reward = (count - self.alpha) / count * (log_likelihood @ seen.weights)
        cost = (1 - self.alpha) * kl + self.alpha * conditional
        loss = -(reward - _warm(self.beta, self.warmup_epochs, seen.epoch) * cost).mean()
        return Bound(loss, log_likelihood, kl, {"conditional_kl": conditional.mean()})


@dataclass(frozen=True)
class Alignment(Objective):
    """Contrast between the posterior means of two disjoint parts of one case, over the batch and over all ranks.

    Cross-entropy, both ways, of the cosine similarities over the temperature (CLIP: Radford et al. 2021, arXiv:2103.00020,
    figure 3) to a target: the same case or, with `targets`, the softmax of how alike two cases are in that role's values
    (MedCLIP: Wang et al. 2022, arXiv:2210.10163, eq. 3–4). A case with one encoded role takes no part; nor, with `targets`, one
    that lacks the role. No bound: add it to one, `Sum(terms=(ELBO(), Alignment()))`.

    Args:
        weight: Factor on the mean cross-entropy, in nats.
        temperature: Of the cosine similarities.
        targets: A role whose observed values say how alike two cases are; empty: a case is like itself alone.
        target_temperature: Of their mean squared difference, relative to the batch's mean.
    """

    weight: float = 100.0
    temperature: float = 0.1
    targets: str = ""
    target_temperature: float = 0.2

    def samples(self, components):
        return 1

    def reads(self):
        return (self.targets,) if self.targets else ()

    def __call__(self, seen):
        first, second = (_gathered(seen.fuse(seen.experts, half).mean) for half in seen.halves)
        takes_part = seen.halves[0].any(1) & seen.halves[1].any(1)
        if self.targets:
            value, mask = seen.values[self.targets]
            takes_part = takes_part & mask.any(1)
            target = self._alike(_gathered(value), _gathered(mask.float()))
        else:
            target = torch.eye(len(first), device=first.device)
        rows = _gathered(takes_part.float()).bool()
        unit = lambda x: torch.nn.functional.normalize(x[rows], dim=-1)  # noqa: E731
        loss = first.sum() * 0.0
        if rows.sum() > 1:
            target = target[rows][:, rows]
            target = target / target.sum(1, keepdim=True)
            similarity = unit(first) @ unit(second).T / self.temperature
            for logits in (similarity, similarity.T):
                loss = loss - (target * logits.log_softmax(1)).sum(1).mean() / 2
        empty = torch.zeros(len(seen.visible), device=first.device)
        return Bound(
            self.weight * loss, torch.zeros_like(seen.visible, dtype=first.dtype), empty, {"alignment": loss}
        )

    def _alike(self, value: Float[Tensor, "B V"], mask: Float[Tensor, "B V"]) -> Float[Tensor, "B B"]:
        """Softmax of minus the mean squared difference over the values that both have, scaled by its mean over the batch."""
        value = value * mask
        squared = value.square() @ mask.T + mask @ value.square().T - 2 * value @ value.T
        shared = mask @ mask.T
        distance = squared / shared.clamp_min(1)
        usual = distance[shared > 0].mean().clamp_min(torch.finfo(distance.dtype).tiny)
        logits = torch.where(shared > 0, -distance / usual / self.target_temperature, -torch.inf)
        itself = torch.eye(len(value), dtype=torch.bool, device=value.device)
        return torch.where(itself, 0.0, logits).softmax(1)


def _gathered(x: Tensor) -> Tensor:
    """All ranks' rows, with gradients; ranks hold equally many."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return x
    if torch.distributed.get_world_size() == 1:
        return x
    return torch.cat(torch.distributed.nn.functional.all_gather(x.contiguous()))


@dataclass(frozen=True)
class Sum(Objective):
    """A bound and what is added to it: losses and parts are summed, log-likelihood and KL are the first term's.

    Args:
        terms: Objectives, the bound first.
    """

    terms: tuple[Objective, ...] = (ELBO(), Alignment())

    def samples(self, components):
        if not self.terms:
            raise ValueError("Sum has no terms; name at least one objective, the bound first")
        return max(term.samples(components) for term in self.terms)

    def reads(self):
        return tuple(role for term in self.terms for role in term.reads())

    def __call__(self, seen):
        made = [term(self._for(term, seen)) for term in self.terms]
        parts = {name: value for one in made for name, value in one.parts.items()}
        return Bound(sum(one.loss for one in made), made[0].log_likelihood, made[0].kl, parts)

    def _for(self, term: Objective, seen: Evidence) -> Evidence:
        count = term.samples(seen.posterior.log_weight.shape[1])
        return seen if seen.noise.shape[1] == count else replace(seen, noise=seen.noise[:, :count])
