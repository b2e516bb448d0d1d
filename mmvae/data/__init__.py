"""Data loading: the cases of a cohort as datasets and batches."""

from mmvae.data.dataset import CaseDataset
from mmvae.data.module import CaseData

__all__ = ["CaseData", "CaseDataset"]
