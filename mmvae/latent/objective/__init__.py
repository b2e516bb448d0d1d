"""Training objectives: bounds on the log-likelihood of all present modalities, one file per bound."""

from mmvae.latent.objective.alignment import Alignment
from mmvae.latent.objective.elbo import ELBO
from mmvae.latent.objective.evidence import Bound, Evidence, Objective, Score
from mmvae.latent.objective.importance import IWAE, DReG
from mmvae.latent.objective.sum import Sum
from mmvae.latent.objective.total_correlation import TotalCorrelation

__all__ = [
    "ELBO",
    "IWAE",
    "Alignment",
    "Bound",
    "DReG",
    "Evidence",
    "Objective",
    "Score",
    "Sum",
    "TotalCorrelation",
]
