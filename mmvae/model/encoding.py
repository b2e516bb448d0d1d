"""Observations of a batch → one Gaussian expert per role and case."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmvae.batch import Batch, Observation
from mmvae.latent.gaussian import Gaussian
from mmvae.modality import Modality


def encode(
    batch: Batch,
    selected: Bool[Tensor, "B M"],
    recipes: Mapping[str, Modality],
    encoders: nn.ModuleDict,
    latent_dim: int,
) -> tuple[Gaussian, Float[Tensor, ""]]:
    """Each role's expert (B, M, D) for the selected cases, the prior elsewhere; and a 0 that ties in the other encoders.

    The 0 has a gradient path to every encoder in training mode, also to one that no case is selected for, so that DDP needs
    no special strategy.

    Args:
        batch: B cases.
        selected: Which of their roles to encode; M in the order of the recipes.
        recipes: By role.
        encoders: By role; (value, mask) → Gaussian (B, D).
        latent_dim: D.
    """
    means, logvars, tie = [], [], torch.zeros((), device=batch.present.device)
    for m, role in enumerate(recipes):
        rows = selected[:, m].nonzero()[:, 0]
        observation = batch.observations[role].clean()
        mean = batch.present.new_zeros((len(batch.present), latent_dim), dtype=torch.float32)
        logvar = torch.zeros_like(mean)
        if len(rows) == len(mean):
            expert = encoders[role](observation.value, observation.mask)
            mean, logvar = expert.mean.float(), expert.logvar.float()
        elif len(rows):
            subset = observation.rows(rows)
            expert = encoders[role](subset.value, subset.mask)
            mean = mean.index_copy(0, rows, expert.mean.float())
            logvar = logvar.index_copy(0, rows, expert.logvar.float())
        elif encoders.training:
            blank = stacked(recipes[role].blank(), mean.device)
            expert = encoders[role](blank.value, blank.mask)
            tie = tie + 0.0 * (expert.mean.sum() + expert.logvar.sum())
        means.append(mean)
        logvars.append(logvar)
    return Gaussian(torch.stack(means, 1), torch.stack(logvars, 1)), tie.float()


def stacked(observation: Observation, device: torch.device) -> Observation:
    """A batch of this one observation."""
    return Observation(observation.value[None].to(device), observation.mask[None].to(device))
