"""The address until 0.1 of `mmvae.evaluation.evaluate`, for scripts written for it."""

from mmvae.evaluation.evaluate import evaluate

__all__ = ["evaluate"]
