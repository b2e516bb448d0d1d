"""Conformance checks that a plugin's author runs: `for check in CHECKS: check(Subject(MyModality(), views))`."""

from mmvae.testing.conformance import CHECKS, Subject

__all__ = ["CHECKS", "Subject"]
