"""A cohort's cases → batches."""

from mmvae.data.dataset import CaseDataset
from mmvae.data.module import CaseData

__all__ = ["CaseData", "CaseDataset"]
