"""Approximate search with usearch: a graph over the stored points, cached beside SQLite and rebuilt when the index changes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmvae.atomic import built_beside
from mmvae.retrieval.archive import Archive

USED_FROM = 100_000  # cases from which an unfiltered joint search uses the graph by default
_METRIC = {"cosine": "cos", "euclidean": "l2sq"}


def search_vectors(
    keys: Int[np.ndarray, " N"],
    vectors: Float[np.ndarray, "N D"],
    query: Float[np.ndarray, "Q D"],
    k: int,
    distance: str,
) -> Int[np.ndarray, "Q K"]:
    """Keys of approximately the k nearest vectors, from a graph built for this call (used by benchmarks); padded with 0.

    Args:
        keys: Integers from 1.
        vectors: One row per key.
        query: One row per query, of the same width.
        k: Number of neighbours per query.
        distance: `cosine` or `euclidean`.
    """
    return _hits(_graph(keys, vectors, distance), query, k)


def _graph(keys: np.ndarray, vectors: np.ndarray, distance: str) -> Any:
    from usearch.index import Index as Graph

    if len(keys) and int(np.min(keys)) < 1:
        raise ValueError("usearch pads missing hits with key 0, so keys start at 1")
    graph = Graph(
        ndim=vectors.shape[1],
        metric=_METRIC[distance],
        dtype="f32",
        connectivity=32,
        expansion_add=200,
        expansion_search=200,
    )
    # More than one thread loses up to .2 % of the entries (usearch 2.26).
    graph.add(np.asarray(keys, np.uint64), np.ascontiguousarray(vectors, dtype=np.float32), threads=1)
    lost = [int(key) for key in keys if key not in graph]
    if lost or len(graph) != len(keys):
        raise RuntimeError(
            f"usearch kept {len(graph)} of {len(keys)} entries; use exact search, and report this"
        )
    return graph


def _hits(graph: Any, query: np.ndarray, k: int) -> Int[np.ndarray, "Q K"]:
    found = graph.search(np.ascontiguousarray(query, dtype=np.float32), k, threads=1)
    keys = np.atleast_2d(np.asarray(found.keys, np.int64))
    counts = np.atleast_1d(np.asarray(getattr(found, "counts", [keys.shape[1]])))
    # Fewer than k hits are padded with key 0 and distance NaN: only `counts` of them are hits.
    return np.where(np.arange(keys.shape[1])[None] < counts[:, None], keys, 0)


def nearest(archive: Archive, point: Float[np.ndarray, " U"], k: int) -> list[int]:
    """Keys of approximately the k nearest cases by stored point; builds the graph if there is none for this snapshot."""
    from usearch.index import Index as Graph

    path = archive.root / f"points-{archive.moment}.usearch"
    if path.is_file():
        graph: Any = Graph.restore(os.fspath(path))
    else:
        graph = _graph(archive.keys, archive.points_of_all, archive.space.distance)
        _save(graph, path)
    return [int(key) for key in _hits(graph, point[None], k)[0] if key]


def _save(graph: Any, path: Path) -> None:
    with built_beside(path, str(os.getpid())) as beside:
        graph.save(os.fspath(beside))
    for stale in path.parent.glob("*.usearch"):
        if stale != path:
            stale.unlink(missing_ok=True)
