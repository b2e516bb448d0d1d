"""Graded relevance of archive cases to queries, from labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from mmvae.case import Relevance, Value

Labels = Mapping[str, Value]


def gains(
    query: Sequence[Labels], archive: Sequence[Labels], relevance: Sequence[Relevance]
) -> Float[np.ndarray, "Q N"]:
    """The gain of each archive case for each query: that of the first level whose labels are all equal, else 0.

    A missing label equals nothing, not even another missing one.

    >>> gains([{"histology": "cyst"}], [{"histology": "cyst"}, {}], [Relevance(2, ("histology",))]).tolist()
    [[2.0, 0.0]]
    """
    total = np.zeros((len(query), len(archive)))
    decided = np.zeros_like(total, dtype=bool)
    for level in relevance:
        same = np.ones_like(decided)
        for name in level.same:
            a = np.array([str(labels[name]) if name in labels else "" for labels in query], dtype=object)
            b = np.array([str(labels[name]) if name in labels else "" for labels in archive], dtype=object)
            same &= (a[:, None] == b[None]) & (a[:, None] != "") & (b[None] != "")
        total[same & ~decided] = level.gain
        decided |= same
    return total


def labelled(labels: Sequence[Labels], relevance: Sequence[Relevance]) -> Bool[np.ndarray, " N"]:
    """Whether each case has every label of the level with the highest gain; other cases are not evaluated."""
    best = max(relevance, key=lambda level: level.gain)
    return np.array([all(name in of_case for name in best.same) for of_case in labels], dtype=bool)


def counts_as_relevant(relevance: Sequence[Relevance]) -> float:
    """The smallest gain that P@k and mAP count as relevant: 2, or the only gain if all levels share one."""
    distinct = {level.gain for level in relevance}
    return 2.0 if len(distinct) > 1 else float(min(distinct))
