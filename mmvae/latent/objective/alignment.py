"""A contrastive objective between two parts of a case, as in CLIP and MedCLIP."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmvae.latent.objective.evidence import Bound, Objective


@dataclass(frozen=True)
class Alignment(Objective):
    """Contrastive loss between the posterior means of two disjoint parts of each case, over the batch and over all ranks.

    Cross-entropy in both directions between the softmax of cosine similarity divided by temperature (CLIP: Radford et al. 2021,
    arXiv:2103.00020, figure 3) and a target: the same case or, with `targets`, the softmax of the similarity of two cases in
    that role's values (MedCLIP: Wang et al. 2022, arXiv:2210.10163, eq. 3–4). A case with a single encoded role takes no part,
    nor does, with `targets`, a case that lacks that role. It is not a bound; add it to one: `Sum(terms=(ELBO(), Alignment()))`.

    Args:
        weight: Factor on the mean cross-entropy, in nats.
        temperature: Temperature of the cosine similarities.
        targets: Role whose observed values define how similar two cases are; if empty, a case is similar only to itself.
        target_temperature: Temperature of the mean squared difference of those values, relative to the batch's mean.
    """

    weight: float = 100.0
    temperature: float = 0.1
    targets: str = ""
    target_temperature: float = 0.2

    def samples(self, components):
        return 1

    def reads(self):
        return (self.targets,) if self.targets else ()

    def __call__(self, evidence):
        first, second = (_all_gather(evidence.fuse(evidence.experts, half).mean) for half in evidence.halves)
        takes_part = evidence.halves[0].any(1) & evidence.halves[1].any(1)
        if self.targets:
            value, mask = evidence.values[self.targets]
            takes_part = takes_part & mask.any(1)
            target = self._similarity_targets(_all_gather(value), _all_gather(mask.float()))
        else:
            target = torch.eye(len(first), device=first.device)
        rows = _all_gather(takes_part.float()).bool()
        unit = lambda x: torch.nn.functional.normalize(x[rows], dim=-1)  # noqa: E731
        loss = first.sum() * 0.0
        if rows.sum() > 1:
            target = target[rows][:, rows]
            target = target / target.sum(1, keepdim=True)
            similarity = unit(first) @ unit(second).T / self.temperature
            for logits in (similarity, similarity.T):
                loss = loss - (target * logits.log_softmax(1)).sum(1).mean() / 2
        empty = torch.zeros(len(evidence.visible), device=first.device)
        return Bound(
            self.weight * loss,
            torch.zeros_like(evidence.visible, dtype=first.dtype),
            empty,
            {"alignment": loss},
        )

    def _similarity_targets(
        self, value: Float[Tensor, "B V"], mask: Float[Tensor, "B V"]
    ) -> Float[Tensor, "B B"]:
        """Softmax of the negative mean squared difference over the values that both cases have, scaled by its batch mean."""
        value = value * mask
        squared = value.square() @ mask.T + mask @ value.square().T - 2 * value @ value.T
        shared = mask @ mask.T
        distance = squared / shared.clamp_min(1)
        mean = distance[shared > 0].mean().clamp_min(torch.finfo(distance.dtype).tiny)
        logits = torch.where(shared > 0, -distance / mean / self.target_temperature, -torch.inf)
        itself = torch.eye(len(value), dtype=torch.bool, device=value.device)
        return torch.where(itself, 0.0, logits).softmax(1)


def _all_gather(x: Tensor) -> Tensor:
    """The rows of all ranks, with gradients; every rank must hold the same number."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return x
    if torch.distributed.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))
