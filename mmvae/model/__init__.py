"""Experts of the visible roles, fused, score every present role."""

from mmvae.model.module import MMVAE
from mmvae.model.monitor import RetrievalMonitor

__all__ = ["MMVAE", "RetrievalMonitor"]
