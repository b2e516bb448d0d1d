"""Neighbours to person."""
