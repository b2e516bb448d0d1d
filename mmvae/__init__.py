"""Find the archive's cases most like this one: a multimodal VAE whose posterior is the retrieval space."""

__version__ = "0.1.0"
