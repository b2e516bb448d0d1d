"""Benchmarks: every number of the README and the commands that repeat it. Run from a clone, e.g. `python -m benchmarks.headline`."""
