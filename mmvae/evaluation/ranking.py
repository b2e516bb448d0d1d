"""Ranking an archive for queries, by points of a space or by late fusion of single roles, and scoring the ranking."""

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
from mmvae.retrieval.experts import ArchiveRoles, Experts

RRF = 60  # constant of reciprocal rank fusion (Cormack, Clarke & Büttcher 2009)
LateRule = Literal["zscore", "rrf"]
Distances = tuple[Float[np.ndarray, "Q N"], Bool[np.ndarray, "Q N"]]


@dataclass(frozen=True)
class Side:
    """One side of a comparison, queries or archive: labelled cases and their experts.

    The experts are those of one model, or those of several single-role models as its roles.
    """

    cases: tuple[Case, ...]
    experts: Experts

    @classmethod
    def of(cls, cases: Sequence[Case], experts: Experts, relevance: Sequence[Relevance]) -> "Side":
        """The cases that have every label of the level with the highest gain; other cases are not evaluated."""
        keep = np.flatnonzero(labelled([case.labels for case in cases], relevance)).tolist()
        return cls(tuple(cases[i] for i in keep), experts.rows(keep))


@dataclass(frozen=True)
class Ranking:
    """Ranks by a retrieval space and scores the ranking by relevance.

    >>> from mmvae.case import Case, Relevance
    >>> ranking = Ranking(RetrievalSpace(), (Relevance(1, ("histology",)),))
    >>> queries = [Case("c1", "p1", labels={"histology": "cyst"})]
    >>> archive = [Case("c2", "p2", labels={"histology": "fibroma"}), Case("c3", "p3", labels={"histology": "cyst"})]
    >>> value, chance = ranking.judge(np.array([[0.2, 0.1]]), np.ones((1, 2), bool), queries, archive)
    >>> value.mAP.tolist(), chance.mAP.tolist()
    ([1.0], [0.75])

    Args:
        space: Forms points and compares them.
        relevance: Levels of graded relevance, of which the first that applies counts.
    """

    space: RetrievalSpace
    relevance: tuple[Relevance, ...]

    def judge(
        self,
        distance: Float[np.ndarray, "Q N"],
        usable: Bool[np.ndarray, "Q N"],
        queries: Sequence[Case],
        archive: Sequence[Case],
    ) -> tuple[Scores, Scores]:
        """Scores of a table of distances, and those expected of a random order; a query's own patient is never a neighbour.

        Args:
            distance: Distance of each archive case from each query.
            usable: Which archive cases take part, for each query.
            queries: Q labelled cases.
            archive: N labelled cases.
        """
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
        """Distances of the queries `rows`, each formed from the roles of `using` that it has, and which archive cases take part.

        Args:
            query: The side of the queries.
            archive: The side in which neighbours are searched.
            rows: Numbers of the queries.
            using: Roles of the queries.
            archive_roles: The roles that form the archive's points: `matched`, those that this query has; `joint`, all
                query roles; `with_answers`, all. An archive case with none of them takes no part.

        Returns:
            The distance of each pair, infinite if the query has no role, and whether the archive case takes part.
        """
        query_has = query.experts.having(using)[rows]
        distance = np.full((len(rows), len(archive.cases)), np.inf, np.float32)
        usable = np.zeros(distance.shape, bool)
        for pattern in np.unique(query_has, axis=0):
            if not pattern.any():
                continue
            same_roles = np.flatnonzero((query_has == pattern).all(1))
            queried = [role for role, has in zip(query.experts.roles, pattern) if has]
            point_roles = archive.experts.roles_forming(archive_roles, queried)
            archive_has = archive.experts.having(point_roles)
            q = query.experts.rows(rows[same_roles]).points(self.space, query_has[same_roles])
            a = archive.experts.points(self.space, archive_has)
            distance[same_roles] = self.space.distances(torch.from_numpy(q), torch.from_numpy(a)).numpy()
            usable[same_roles] = archive_has.any(1)
        return distance, usable

    def late(
        self, query: Side, archive: Side, rows: Int[np.ndarray, " Q"], using: Iterable[str], rule: LateRule
    ) -> Distances:
        """The same as `table`, by late fusion of single roles.

        A role that the query or the archive case lacks adds nothing; sums are divided by the number of shared roles.

        Args:
            query: The side of the queries.
            archive: The side in which neighbours are searched.
            rows: Numbers of the queries.
            using: Roles of the queries.
            rule: `zscore` sums standardised similarities, `rrf` reciprocal ranks.
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


def _standardised(
    distance: Float[np.ndarray, "Q N"], known: Bool[np.ndarray, "Q N"]
) -> Float[np.ndarray, "Q N"]:
    """The negative distance, standardised over the known distances of each query."""
    masked, defined = np.where(known, distance, np.nan), known.any(1)
    mean, std = np.zeros(len(distance)), np.ones(len(distance))
    mean[defined], std[defined] = np.nanmean(masked[defined], 1), np.nanstd(masked[defined], 1) + 1e-9
    return -(distance - mean[:, None]) / std[:, None]


def _reciprocal_rank(distance: Float[np.ndarray, "Q N"]) -> Float[np.ndarray, "Q N"]:
    return 1 / (RRF + 1 + np.argsort(np.argsort(distance, 1, kind="stable"), 1, kind="stable"))


def choose_late_rule(ranking: Ranking, validation: Side, using: Sequence[str]) -> LateRule:
    """`zscore` or `rrf`, whichever has the higher mAP among validation cases."""
    rows = np.arange(len(validation.cases))

    def quality(rule: LateRule) -> float:
        distance, usable = ranking.late(validation, validation, rows, using, rule)
        value, _ = ranking.judge(distance, usable, validation.cases, validation.cases)
        return value.mean()["mAP"]

    return max(("zscore", "rrf"), key=quality)
