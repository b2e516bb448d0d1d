"""Experts to joint posterior: torch and pyro only, no modality and no file is known here."""
