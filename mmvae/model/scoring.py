"""Latent samples → how well each role's decoder explains what was observed."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmvae.batch import Batch, Observation
from mmvae.latent.gaussian import masked_sum
from mmvae.modality import Modality
from mmvae.model.encoding import stacked


def score(
    batch: Batch,
    z: Float[Tensor, "S N D"],
    share: Float[Tensor, "N M"],
    recipes: Mapping[str, Modality],
    decoders: nn.ModuleDict,
) -> Float[Tensor, "S N M"]:
    """Unweighted log p(x_m | z) of each case's present roles, summed over the measured values; 0 where absent.

    Args:
        batch: B cases.
        z: S samples of each of N rows; with several rows per case, N = B × subsets, a case's side by side.
        share: Factor on each value; what has share 0 is not decoded. M in the order of the recipes.
        recipes: By role.
        decoders: By role; z (B, D) → a distribution.
    """
    samples, subsets = len(z), z.shape[1] // len(batch.present)
    share = share * batch.present.repeat_interleave(subsets, 0)
    columns = []
    for m, role in enumerate(recipes):
        rows = share[:, m].nonzero()[:, 0]
        column = torch.zeros(samples, len(share), device=z.device)
        if not len(rows):
            # One decoding with a zero gradient: a parameter without one would stall DDP.
            tie = _log_prob(decoders[role], stacked(recipes[role].blank(), z.device), z[0, :1])
            columns.append(column + 0.0 * tie.sum())
            continue
        observation, whole = batch.observations[role], len(rows) == len(share)
        if not (whole and subsets == samples == 1):
            observation = observation.rows((rows // subsets).repeat(samples))
        at = (z if whole else z[:, rows]).flatten(0, 1)
        log_prob = _log_prob(decoders[role], observation.clean(), at)
        weighted = log_prob.unflatten(0, (samples, len(rows))) * share[rows, m]
        columns.append(weighted if whole else column.index_copy(1, rows, weighted))
    return torch.stack(columns, -1)


def _log_prob(decoder: nn.Module, observation: Observation, z: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    # float32 outside any autocast: a sum over 10⁵ voxels in bfloat16 keeps two digits.
    distribution = decoder(z)
    with torch.autocast(z.device.type, enabled=False):
        return masked_sum(distribution.log_prob(observation.value).float(), observation.mask)
