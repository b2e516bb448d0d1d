"""Latent space: fuses experts into a joint posterior. Uses torch and pyro only; knows no modality and no file."""
