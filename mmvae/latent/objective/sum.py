"""The sum of several objectives, e.g. a bound and a contrastive loss."""

from dataclasses import dataclass, replace

import torch

from mmvae.latent.objective.alignment import Alignment
from mmvae.latent.objective.elbo import ELBO
from mmvae.latent.objective.evidence import Bound, Evidence, Objective


@dataclass(frozen=True)
class Sum(Objective):
    """A bound plus further terms: losses are summed and parts merged; log-likelihood and KL are those of the first term.

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

    def __call__(self, evidence):
        bounds = [term(self._for(term, evidence)) for term in self.terms]
        parts = {name: value for bound in bounds for name, value in bound.parts.items()}
        loss = torch.stack([bound.loss for bound in bounds]).sum()
        return Bound(loss, bounds[0].log_likelihood, bounds[0].kl, parts)

    def _for(self, term: Objective, evidence: Evidence) -> Evidence:
        count = term.samples(evidence.posterior.log_weight.shape[1])
        if evidence.noise.shape[1] == count:
            return evidence
        return replace(evidence, noise=evidence.noise[:, :count])
