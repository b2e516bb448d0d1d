"""mmvae …: the command line."""

from mmvae.cli.command_line import main

__all__ = ["main"]
