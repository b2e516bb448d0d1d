"""Importance-weighted bounds: IWAE (Burda et al. 2016) and its doubly reparameterised gradient (Tucker et al. 2019)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.objective.evidence import Bound, Evidence, Objective, log_prior


@dataclass(frozen=True)
class IWAE(Objective):
    r"""log Σ_k π_k (1/S) Σ_s p(x | z_ks)^w p(z_ks) / q(z_ks) with S samples per component, where q is the whole mixture.

    Burda et al. 2016, arXiv:1509.00519, eq. 8; a mixture's samples are stratified (Shi et al. 2019, arXiv:1911.03393; Morningstar
    et al. 2021, arXiv:2003.01687, eq. 9). The bound rises with S to log p(x).

    Args:
        importance_samples: S, the number of samples per component.
    """

    importance_samples: int = 8

    def samples(self, components):
        return components * self.importance_samples

    def __call__(self, evidence):
        log_ratio, log_likelihood, kl = _importance(evidence, self.importance_samples, evidence.posterior)
        return Bound(-torch.logsumexp(log_ratio, 0).mean(), log_likelihood, kl)


@dataclass(frozen=True)
class DReG(Objective):
    """The same bound with the doubly reparameterised gradient of the encoders (Tucker et al. 2019, arXiv:1810.04152, eq. 8).

    The posterior's parameters are detached in its density, and a sample's gradient is scaled by its squared weight.

    Args:
        importance_samples: Samples per component.
    """

    importance_samples: int = 8

    def samples(self, components):
        return components * self.importance_samples

    def __call__(self, evidence):
        components = evidence.posterior.components
        density = Posterior(
            Gaussian(components.mean.detach(), components.logvar.detach()),
            evidence.posterior.log_weight.detach(),
        )
        log_ratio, log_likelihood, kl = _importance(
            evidence, self.importance_samples, density, scale_gradient=True
        )
        share = log_ratio.detach().softmax(0)
        value = torch.logsumexp(log_ratio.detach(), 0)
        # The value is that of the bound; the gradient is that of Σ share · log_ratio.
        pseudo = (share * torch.where(share > 0, log_ratio, 0)).sum(0)
        return Bound(-(value + pseudo - pseudo.detach()).mean(), log_likelihood, kl)


def _importance(
    evidence: Evidence, count: int, density: Posterior, scale_gradient: bool = False
) -> tuple[Float[Tensor, "S N"], Float[Tensor, "N M"], Float[Tensor, " N"]]:
    """log(π_k/S · p(x, z)/q(z)) of every sample, the expected log-likelihood, and the KL estimated from the samples."""
    components = evidence.posterior.components
    noise = evidence.noise.unflatten(1, (count, evidence.posterior.log_weight.shape[1]))  # (N, S, K, D)
    z = components.mean[:, None] + (components.logvar / 2).exp()[:, None] * noise
    z = z.flatten(1, 2).transpose(0, 1)  # (S · K, N, D)
    log_share = (evidence.posterior.log_weight.detach().T - torch.log(torch.tensor(float(count)))).repeat(
        count, 1
    )
    shares: list[Tensor] = []
    if scale_gradient and z.requires_grad:
        z.register_hook(lambda gradient: gradient * shares[0][..., None])
    exists = log_share > -torch.inf
    score = torch.where(exists[..., None], evidence.score(z), 0)
    log_q, log_p = density.log_prob(z), log_prior(z)
    log_ratio = torch.where(exists, score @ evidence.weights + log_p - log_q + log_share, -torch.inf)
    shares.append(log_ratio.detach().softmax(0))
    probability = log_share.exp()
    kl = (probability * torch.where(exists, log_q - log_p, 0)).sum(0)
    return log_ratio, (probability[..., None] * score).sum(0), kl
