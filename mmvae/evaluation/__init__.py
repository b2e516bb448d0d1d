"""Checkpoints + cohort → every number of EVALUATION.md, with plots."""
