"""Diagonal Gaussians, finite mixtures of them, and distances between points."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Normal(ABC):
    """Diagonal Gaussians of any batch shape, however they are stored: mean and log-variance, each (…, D)."""

    mean: Float[Tensor, "*batch D"]
    logvar: Float[Tensor, "*batch D"]

    @abstractmethod
    def at(self, index: Int[Tensor, " B"]) -> "Normal":
        """The component `index` of each row, (B, 1, D), of Gaussians of batch shape (B, K)."""

    @abstractmethod
    def log_prob_of_each(self, z: Float[Tensor, "*S B D"]) -> Float[Tensor, "*S B K"]:
        """The log-density in nats of every component at its row's z, of Gaussians of batch shape (B, K)."""

    def log_prob(self, z: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """Log-density in nats, summed over D; z broadcasts against the mean."""
        logvar = self.logvar
        squared = (z - self.mean).square() * (-logvar).exp()
        return -0.5 * (squared + logvar + math.log(2 * math.pi)).sum(-1)

    def rsample(self, noise: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """The reparameterised sample obtained from standard normal noise (Kingma & Welling 2014, arXiv:1312.6114)."""
        return self.mean + (self.logvar / 2).exp() * noise

    def kl_to_prior(self) -> Float[Tensor, "*batch D"]:
        """KL to the standard normal in nats, one value per latent dimension."""
        logvar = self.logvar
        return 0.5 * (self.mean.square() + logvar.exp() - 1 - logvar)


@dataclass(frozen=True)
class Gaussian(Normal):
    """Diagonal Gaussians stored as mean and log-variance, each (…, D).

    >>> standard = Gaussian(torch.zeros(2, 3), torch.zeros(2, 3))
    >>> standard.kl_to_prior().tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    >>> round(standard.log_prob(torch.zeros(3))[0].item(), 4)  # −3/2 log 2π
    -2.7568
    """

    mean: Float[Tensor, "*batch D"]
    logvar: Float[Tensor, "*batch D"]

    def at(self, index):
        rows = torch.arange(len(index), device=index.device)
        return Gaussian(*(x[rows, index][:, None] for x in (self.mean, self.logvar)))

    def log_prob_of_each(self, z):
        return self.log_prob(z[..., None, :])


@dataclass(frozen=True)
class Posterior:
    """A finite mixture of diagonal Gaussians: components (B, K, D), normalised log-weights (B, K), −inf where void.

    >>> components = Gaussian(torch.tensor([[[-1.0], [3.0]]]), torch.zeros(1, 2, 1))
    >>> posterior = Posterior(components, torch.tensor([[0.25, 0.75]]).log())
    >>> posterior.mean.item()
    2.0
    >>> posterior.moment_matched().logvar.exp().item()  # 1 + ¼ · 9 + ¾ · 1
    4.0
    """

    components: Normal
    log_weight: Float[Tensor, "B K"]

    @property
    def weight(self) -> Float[Tensor, "B K"]:
        """The components' probabilities; they sum to 1 over K."""
        return self.log_weight.exp()

    @property
    def mean(self) -> Float[Tensor, "B D"]:
        """The mean of the whole mixture, which an index keeps."""
        return (self.weight[..., None] * self.components.mean).sum(1)

    def log_prob(self, z: Float[Tensor, "*S B D"]) -> Float[Tensor, "*S B"]:
        """Log-density of the mixture in nats."""
        return torch.logsumexp(self.log_weight + self.components.log_prob_of_each(z), -1)

    def rsample(self, noise: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "B D"]:
        """One sample per case: a component is drawn by weight (no gradient to the weights), then a reparameterised sample of it."""
        component = self.components.at(torch.multinomial(self.weight.detach(), 1)[:, 0])
        mean, logvar = component.mean[:, 0], component.logvar[:, 0]
        return Gaussian(mean, logvar).rsample(torch.randn_like(mean) if noise is None else noise)

    def moment_matched(self) -> Gaussian:
        """The single Gaussian (B, D) with the mixture's mean and variance."""
        weight, component_mean = self.weight[..., None], self.components.mean
        mean = (weight * component_mean).sum(1)
        squared = (component_mean - mean[:, None]).square()
        return Gaussian(mean, (weight * (self.components.logvar.exp() + squared)).sum(1).log())


def cosine_distance(query: Float[Tensor, "Q D"], archive: Float[Tensor, "N D"]) -> Float[Tensor, "Q N"]:
    """1 − cosine similarity of every pair; a zero vector has distance 1 to every vector."""
    tiny = torch.finfo(query.dtype).tiny
    unit = lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(tiny)  # noqa: E731
    return 1 - unit(query) @ unit(archive).T


def euclidean_distance(query: Float[Tensor, "Q D"], archive: Float[Tensor, "N D"]) -> Float[Tensor, "Q N"]:
    """Euclidean distance of every pair."""
    return torch.cdist(query, archive, compute_mode="donot_use_mm_for_euclid_dist")


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


def masked_sum(value: Float[Tensor, " B *rest"], mask: Bool[Tensor, " B *rest"]) -> Float[Tensor, " B"]:
    """Sum of the unmasked values over all axes but the batch; NaN under the mask does not matter."""
    return torch.where(mask, value, 0).reshape(len(value), -1).sum(1)
