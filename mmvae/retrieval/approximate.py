"""usearch over the posterior means: a cache beside SQLite, made again whenever its generation differs."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mmvae.retrieval.index import Index

ASKED_FROM = 100_000  # cases from which an unfiltered joint search uses it unasked
_METRIC = {"cosine": "cos", "euclidean": "l2sq"}


def search_vectors(
    keys: Int[np.ndarray, " N"],
    vectors: Float[np.ndarray, "N D"],
    query: Float[np.ndarray, "Q D"],
    k: int,
    distance: str,
) -> Int[np.ndarray, "Q K"]:
    """Keys of approximately the k nearest, from an index made on the spot (benchmarks)."""
    return _hits(_built(keys, vectors, distance), query, k)


def _built(keys, vectors, distance: str):
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
            f"usearch kept {len(graph)} of {len(keys)} entries; exact search is right, report this"
        )
    return graph


def _hits(graph, query, k: int):
    found = graph.search(np.ascontiguousarray(query, dtype=np.float32), k, threads=1)
    keys = np.atleast_2d(np.asarray(found.keys, np.int64))
    counts = np.atleast_1d(np.asarray(getattr(found, "counts", [keys.shape[1]])))
    # Fewer than k hits are padded with key 0 and distance NaN: only `counts` of them are hits.
    return np.where(np.arange(keys.shape[1])[None] < counts[:, None], keys, 0)


def nearest(index: Index, query: Float[np.ndarray, " D"], k: int) -> list[int]:
    """Keys of approximately the k nearest cases by posterior mean; builds or rebuilds the cache where it is stale."""
    from usearch.index import Index as Graph

    meta = index.meta()
    path = index.root / f"means-{meta['generation']}.usearch"
    if path.is_file():
        graph = Graph.restore(os.fspath(path))
    else:
        keys, means = index.means()
        graph = _built(np.array(keys), means, meta["distance"])
        _save(graph, path)
    return [int(key) for key in _hits(graph, query[None], k)[0] if key]


def _save(graph, path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    graph.save(os.fspath(beside))
    os.replace(beside, path)
    for stale in path.parent.glob("means-*.usearch"):
        if stale != path:
            stale.unlink(missing_ok=True)
