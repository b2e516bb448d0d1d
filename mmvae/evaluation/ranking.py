"""How queries rank an archive: by one space's points, or by late fusion of single roles; and how a ranking is judged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from mmvae.case import Case, Relevance
from mmvae.latent.space import RetrievalSpace
from mmvae.metrics.relevance import counts_as_relevant, gains, labelled
from mmvae.metrics.scores import Scores, score
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.search import ArchiveRoles

RRF = 60  # constant of reciprocal rank fusion (Cormack, Clarke & Büttcher 2009)
LateRule = Literal["zscore", "rrf"]
Distances = tuple[Float[np.ndarray, "Q N"], Bool[np.ndarray, "Q N"]]


@dataclass(frozen=True)
class Side:
    """Queries or an archive: labelled cases and their experts, one model's or several single-role models' side by side."""

    cases: tuple[Case, ...]
    experts: Experts

    @classmethod
    def of(cls, cases: Sequence[Case], experts: Experts, relevance: Sequence[Relevance]) -> "Side":
        """The labelled ones: cases without a label of the highest gain are on neither side."""
        keep = np.flatnonzero(labelled([case.labels for case in cases], relevance))
        return cls(tuple(cases[i] for i in keep), experts.rows(keep))


@dataclass(frozen=True)
class Ranking:
    """How one model ranks: its space, and the relevance that judges it."""

    space: RetrievalSpace
    relevance: tuple[Relevance, ...]

    def judge(
        self,
        distance: Float[np.ndarray, "Q N"],
        usable: Bool[np.ndarray, "Q N"],
        queries: Sequence[Case],
        archive: Sequence[Case],
    ) -> tuple[Scores, Scores]:
        """Scores of a distance table and of a random order; a query's own patient is never a neighbour."""
        gain = gains([case.labels for case in queries], [case.labels for case in archive], self.relevance)
        patients = [np.array([case.patient for case in cases]) for cases in (queries, archive)]
        other = patients[0][:, None] != patients[1][None]
        return score(distance, gain, other & usable, counts_as_relevant(self.relevance))

    def table(
        self,
        query: Side,
        archive: Side,
        rows: Int[np.ndarray, " Q"],
        using: Iterable[str],
        archive_roles: ArchiveRoles,
    ) -> Distances:
        """Distances of the queries `rows`, each with what it has of `using`, and which archive cases take part.

        Args:
            query: The queries' side.
            archive: Where neighbours are looked for.
            rows: Which of the queries.
            using: Roles of the queries.
            archive_roles: What the archive's points are formed of: `matched`, the roles that this query has; `joint`, all
                query roles; `with_answers`, all. An archive case with none of them takes no part.
        """
        had = query.experts.having(using)[rows]
        distance = np.full((len(rows), len(archive.cases)), np.inf, np.float32)
        usable = np.zeros(distance.shape, bool)
        for pattern in np.unique(had, axis=0):
            if not pattern.any():
                continue
            alike = np.flatnonzero((had == pattern).all(1))
            formed = {
                "matched": [role for role, here in zip(query.experts.roles, pattern) if here],
                "joint": archive.experts.query_roles,
                "with_answers": archive.experts.roles,
            }[archive_roles]
            has = archive.experts.having(formed)
            q = query.experts.rows(rows[alike]).points(self.space, had[alike])
            a = archive.experts.points(self.space, has)
            distance[alike] = self.space.distances(torch.from_numpy(q), torch.from_numpy(a)).numpy()
            usable[alike] = has.any(1)
        return distance, usable

    def late(
        self, query: Side, archive: Side, rows: Int[np.ndarray, " Q"], using: Iterable[str], rule: LateRule
    ) -> Distances:
        """The same by late fusion of single roles: `zscore` sums standardised similarities, `rrf` reciprocal ranks.

        A role that query or archive case lacks adds nothing; sums are divided by the number of shared roles.
        """
        total = np.zeros((len(rows), len(archive.cases)))
        shared = np.zeros_like(total)
        for role in using:
            distance, usable = self.table(query, archive, rows, [role], "matched")
            known = usable & np.isfinite(distance)
            part = _standardised(distance, known) if rule == "zscore" else _reciprocal_rank(distance)
            total += np.where(known, part, 0)
            shared += known
        return -total / np.maximum(shared, 1), shared > 0


def _standardised(distance: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Minus the distance, standardised over each query's known ones."""
    masked, has = np.where(known, distance, np.nan), known.any(1)
    mean, std = np.zeros(len(distance)), np.ones(len(distance))
    mean[has], std[has] = np.nanmean(masked[has], 1), np.nanstd(masked[has], 1) + 1e-9
    return -(distance - mean[:, None]) / std[:, None]


def _reciprocal_rank(distance: np.ndarray) -> np.ndarray:
    return 1 / (RRF + 1 + np.argsort(np.argsort(distance, 1, kind="stable"), 1, kind="stable"))


def choose_late_rule(ranking: Ranking, validation: Side, using: Sequence[str]) -> LateRule:
    """`zscore` or `rrf`, whichever has the higher mAP among validation cases."""
    rows = np.arange(len(validation.cases))

    def quality(rule: LateRule) -> float:
        distance, usable = ranking.late(validation, validation, rows, using, rule)
        value, _ = ranking.judge(distance, usable, validation.cases, validation.cases)
        return value.mean()["mAP"]

    return max(("zscore", "rrf"), key=quality)
