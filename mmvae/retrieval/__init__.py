"""Posterior to index to neighbours."""
