"""The command line, `mmvae …`."""

from mmvae.cli.command_line import main

__all__ = ["main"]
