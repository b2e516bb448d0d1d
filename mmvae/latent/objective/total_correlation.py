"""The total-correlation bound of MVTCAE (Hwang et al. 2021)."""

from dataclasses import dataclass

import torch

from mmvae.latent.objective.evidence import Bound, Objective, warmed_up


@dataclass(frozen=True)
class TotalCorrelation(Objective):
    r"""The MVTCAE bound (Hwang et al. 2021, NeurIPS, "Multi-view representation learning via total correlation objective").

    (n − α)/n · E_q[Σ_m w_m log p(x_m | z)] − β ((1 − α) KL(q ‖ p) + α/n Σ_m KL(q ‖ q_m)), where n is the number of visible
    roles and q_m are their experts. It was published for a product of experts without prior. With α = 0 it is the ELBO.

    Args:
        alpha: Weight of the conditional terms, 0 to 1.
        beta: Weight of the KL terms after warm-up.
        warmup_epochs: Number of epochs over which β rises linearly to its value.
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

    def __call__(self, evidence):
        q = evidence.posterior.components
        z = q.rsample(evidence.noise[:, :1]).transpose(0, 1)
        log_likelihood = evidence.score(z)[0]
        kl = q.kl_to_prior().sum(-1)[:, 0]
        experts = evidence.by_row()
        ratio = (q.logvar - experts.logvar).exp() + (q.mean - experts.mean).square() * (-experts.logvar).exp()
        to_experts = 0.5 * (ratio - 1 - q.logvar + experts.logvar).sum(-1)  # (N, M)
        count = evidence.visible.sum(1).clamp_min(1)
        conditional = torch.where(evidence.visible, to_experts, 0).sum(1) / count
        reward = (count - self.alpha) / count * (log_likelihood @ evidence.weights)
        cost = (1 - self.alpha) * kl + self.alpha * conditional
        loss = -(reward - warmed_up(self.beta, self.warmup_epochs, evidence.epoch) * cost).mean()
        return Bound(loss, log_likelihood, kl, {"conditional_kl": conditional.mean()})
