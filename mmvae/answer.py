"""The import path of `mmvae.blocks.answers` until release 0.1, kept for old plugins."""

from typing import Any

from mmvae.plain import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, name)
