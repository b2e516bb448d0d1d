"""Ingest: turns a source of studies into a cohort folder, with each volume that is used written once as NIfTI."""
