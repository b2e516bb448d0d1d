"""Evaluation: checkpoints and a cohort → every number of EVALUATION.md, with plots."""
