"""The bound of one batch, and an error that names the role and cases if it is not finite."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmvae.batch import Batch
from mmvae.errors import InputError
from mmvae.latent.gaussian import Gaussian, Posterior
from mmvae.latent.objective import Bound


@dataclass(frozen=True)
class BatchBound:
    """The bound of one batch and what it was formed from.

    Args:
        bound: The bound; log-likelihood and KL are means over the subsets of each case.
        posterior: The joint posterior of each subset.
        experts: Experts (B, M, D); the prior where a role was not encoded.
        encoded: Which roles were encoded: those visible in some subset.
        tie: 0, with a gradient path to every encoder.
    """

    bound: Bound
    posterior: Posterior
    experts: Gaussian
    encoded: Bool[Tensor, "B M"]
    tie: Float[Tensor, ""]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """What a training step minimises."""
        return self.bound.loss + self.tie


def refuse_non_finite(bound: Bound, batch: Batch, roles: Sequence[str], epoch: int) -> None:
    """Stops a run whose loss is not finite.

    Args:
        bound: Bound of the batch.
        batch: The batch, whose observations are checked.
        roles: Roles in the order of the bound's axis M.
        epoch: Number of the epoch, for the message.

    Raises:
        InputError: naming the origin: a measured value, else a score, else the posterior.
    """
    if torch.isfinite(bound.loss):
        return
    values = {
        role: ~torch.isfinite(observation.clean().value).reshape(len(observation.value), -1).all(1)
        for role, observation in batch.observations.items()
    }
    scores = {role: ~torch.isfinite(bound.log_likelihood[:, m]) for m, role in enumerate(roles)}
    origin = next(
        (part for part in (values, scores) if any(bad.any() for bad in part.values())),
        {"the posterior": ~torch.isfinite(bound.kl)},
    )
    named = [role for role, bad in origin.items() if bad.any()]
    rows = torch.stack(list(origin.values())).any(0).tolist()
    cases = [case_id for case_id, bad in zip(batch.case_ids, rows) if bad]
    more = f" and {len(cases) - 5} more" if len(cases) > 5 else ""
    raise InputError(
        f"the loss is not finite in epoch {epoch}: role {', '.join(named)}, case {', '.join(cases[:5]) or 'unknown'}{more}. "
        "The last good checkpoint is kept; look at the cases with `mmvae show`, or lower model.lr"
    )
