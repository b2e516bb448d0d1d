"""Ingest of a source described by a table: the MAP that explains its columns, its rows, its files, and the scan."""
