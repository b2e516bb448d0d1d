"""Metrics: relevance, scores of a ranking, and estimates with intervals. Uses NumPy only: no model, no torch."""
