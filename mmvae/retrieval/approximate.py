"""Approximate search with usearch: a graph over the stored points, cached beside SQLite and rebuilt when the index changes."""

import contextlib
import hashlib
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
    path = archive.root / f"points-{archive.moment}.usearch"
    graph = _restored(path, archive)
    if graph is None:
        graph = _graph(archive.keys, archive.points_of_all, archive.space.distance)
        with contextlib.suppress(
            OSError
        ):  # a folder that cannot be written, or is gone by now, costs time only
            _save(graph, path)
    return [int(key) for key in _hits(graph, point[None], k)[0] if key]


def _restored(path: Path, archive: Archive) -> Any:
    """The graph in a file that this user wrote, where it holds the archive's own keys and points; else None.

    It is a cache: another process may remove it at any time, and a stranger may have sent it. usearch checks nothing of what it
    reads, so that a forged file would reach any memory; hence only bytes whose digest is noted are given to it.
    """
    from usearch.index import Index as Graph

    try:
        content = path.read_bytes()
        if not _noted(content).is_file():
            return None
        graph: Any = Graph.restore(content)
        points = np.asarray(graph.get(archive.keys.astype(np.uint64)), np.float32)
    except Exception:  # usearch raises what it likes; whatever is wrong with a cache, it is made again
        return None
    same = len(graph) == len(archive) and graph.metric_kind.name.lower() == _METRIC[archive.space.distance]
    return graph if same and np.array_equal(points, archive.points_of_all) else None


def _save(graph: Any, path: Path) -> None:
    with built_beside(path, str(os.getpid())) as beside:
        graph.save(os.fspath(beside))
        note = _noted(beside.read_bytes())
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    for stale in path.parent.glob("*.usearch"):
        if stale != path:
            stale.unlink(missing_ok=True)


def _noted(content: bytes) -> Path:
    """Where this user's account notes that it wrote these bytes: a digest says nothing of a patient."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mmvae" / "graphs" / hashlib.sha256(content).hexdigest()
