"""The import path until release 0.1 of `mmvae.blocks`, for plugins written for it."""

from typing import Any

from mmvae.plain import moved


def __getattr__(name: str) -> Any:
    return moved(__name__, name)
