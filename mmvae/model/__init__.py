"""The model: encoders give experts, a rule fuses them, and decoders score every present role."""

from mmvae.model.module import MMVAE
from mmvae.model.monitor import RetrievalMonitor

__all__ = ["MMVAE", "RetrievalMonitor"]
