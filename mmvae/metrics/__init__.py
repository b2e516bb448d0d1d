"""Relevance, scores of a ranking, and estimates with intervals. NumPy only: no model, no torch."""
