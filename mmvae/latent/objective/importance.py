"""Importance-weighted bounds: IWAE (Burda et al. 2016) and its doubly reparameterised gradient (Tucker et al. 2019)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.objective.evidence import Bound, Evidence, Objective, log_prior


@dataclass(frozen=True)
class IWAE(Objective):
    r"""log Σ_k π_k (1/S) Σ_s p(x | z_ks)^w p(z_ks) / q(z_ks), S samples per component, q the whole mixture.

    Burda et al. 2016, arXiv:1509.00519, eq. 8; a mixture's samples are stratified (Shi et al. 2019, arXiv:1911.03393; Morningstar
    et al. 2021, arXiv:2003.01687, eq. 9). The bound rises with S to log p(x).

    Args:
        importance_samples: S.
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

    The posterior's own parameters are held still in its density, and a sample's gradient counts by its squared weight.

    Args:
        importance_samples: Samples per component.
    """

    importance_samples: int = 8

    def samples(self, components):
        return components * self.importance_samples

    def __call__(self, evidence):
        still = evidence.posterior.components
        density = Posterior(
            Gaussian(still.mean.detach(), still.logvar.detach()), evidence.posterior.log_weight.detach()
        )
        log_ratio, log_likelihood, kl = _importance(
            evidence, self.importance_samples, density, scale_gradient=True
        )
        share = log_ratio.detach().softmax(0)
        value = torch.logsumexp(log_ratio.detach(), 0)
        # The value is the bound's, the gradient that of Σ share · log_ratio.
        pseudo = (share * torch.where(share > 0, log_ratio, 0)).sum(0)
        return Bound(-(value + pseudo - pseudo.detach()).mean(), log_likelihood, kl)


def _importance(
    evidence: Evidence, count: int, density: Posterior, scale_gradient: bool = False
) -> tuple[Float[Tensor, "S N"], Float[Tensor, "N M"], Float[Tensor, " N"]]:
    """log(π_k/S · p(x, z)/q(z)) of every sample, expected log-likelihood, and KL by the samples."""
    each = evidence.posterior.components
    components = evidence.posterior.log_weight.shape[1]
    noise = evidence.noise.unflatten(1, (count, components))  # (N, S, K, D)
    z = each.mean[:, None] + (each.logvar / 2).exp()[:, None] * noise
    z = z.flatten(1, 2).transpose(0, 1)  # (S · K, N, D)
    prior_share = (evidence.posterior.log_weight.detach().T - torch.log(torch.tensor(float(count)))).repeat(
        count, 1
    )
    shares: list[Tensor] = []
    if scale_gradient and z.requires_grad:
        z.register_hook(lambda gradient: gradient * shares[0][..., None])
    here = prior_share > -torch.inf
    score = torch.where(here[..., None], evidence.score(z), 0)
    log_q, log_p = density.log_prob(z), log_prior(z)
    log_ratio = torch.where(here, score @ evidence.weights + log_p - log_q + prior_share, -torch.inf)
    shares.append(log_ratio.detach().softmax(0))
    probability = prior_share.exp()
    kl = (probability * torch.where(here, log_q - log_p, 0)).sum(0)
    return log_ratio, (probability[..., None] * score).sum(0), kl
