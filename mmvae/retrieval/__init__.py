"""Retrieval: embeds cases, keeps them in an index, and finds the nearest neighbours of a query."""
