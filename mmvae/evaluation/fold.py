"""Evaluation of one fold: the scores of every subset of roles, by matched, joint and late fusion, in each archive."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmvae.case import Case, Relevance
from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.evaluation.ranking import Distances, Ranking, Side, choose_late_rule
from mmvae.evaluation.table import key_of, subsets_of
from mmvae.latent.fusion import PoE
from mmvae.latent.space import RetrievalSpace
from mmvae.metrics.estimates import PerPatient, by_patient
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed
from mmvae.retrieval.experts import ArchiveRoles, Experts
from mmvae.splits import PARTS, Split


@dataclass
class _Fold:
    """The queries, archives and ranking of one fold, and the rows computed so far."""

    ranking: Ranking
    query: Side
    archives: Mapping[str, Side]
    headline: str
    rows: dict[str, PerPatient]

    def queries_with(self, using: Iterable[str]) -> np.ndarray:
        """Numbers of the queries that have any of these roles."""
        return np.flatnonzero(self.query.experts.having(using).any(1))

    def add(
        self, key: str, archive: str, which: np.ndarray, rank: Callable[[Side, np.ndarray], Distances]
    ) -> None:
        """Adds the row of the queries `which` in an archive; its key names the archive unless it is the headline's.

        Args:
            key: Key of the row.
            archive: A key of `archives`.
            which: Numbers of the queries.
            rank: Computes the distances of given queries in an archive.
        """
        if not len(which):
            return
        side = self.archives[archive]
        distance, usable = rank(side, which)
        cases = [self.query.cases[i] for i in which]
        value, chance = self.ranking.judge(distance, usable, cases, side.cases)
        prefix = "" if archive == self.headline else f"{archive}/"
        self.rows[prefix + key] = by_patient([case.patient for case in cases], value, chance)

    def add_points(
        self, key: str, archive: str, which: np.ndarray, using: Sequence[str], roles: ArchiveRoles
    ) -> None:
        """Adds a row ranked by points of the space; the queries' points are formed from the roles `using`."""
        self.add(key, archive, which, lambda a, w: self.ranking.table(self.query, a, w, using, roles))


def evaluate_fold(
    models: Sequence[MMVAE],
    cohort: Cohort,
    split: Split,
    headline: str,
    relevance: Sequence[Relevance],
    cache: Path | None = None,
) -> dict[str, PerPatient]:
    """Every row of one fold, with scores per patient.

    Args:
        models: One model, or several with one query role each (late fusion of separate models).
        cohort: The cohort that holds the cases.
        split: The fold's split: test patients are the queries; test and training patients are the archives.
        headline: The archive whose rows have no prefix: `unseen` or `training`.
        relevance: Levels of graded relevance.
        cache: Folder that caches observations.

    Raises:
        InputError: if no test case has a label, or the headline's archive holds none.
    """
    sides = _sides(models, cohort, split, relevance, cache)
    fold = _fold(models, sides, headline, tuple(relevance))
    using = {"full": fold.query.experts.query_roles}
    late = "rrf"
    if "validation" in sides and len(sides["validation"].cases) > 1:
        late = choose_late_rule(fold.ranking, sides["validation"], using["full"])
    several = len(models) > 1
    if not several:
        using |= {f"group/{name}": tuple(members) for name, members in models[0].groups.items()}
    for archive in fold.archives:
        if several:
            for role in using["full"]:
                fold.add_points(role, archive, fold.queries_with([role]), [role], "matched")
        else:
            _add_rows_of_one_model(fold, archive, using)
        if several or archive == headline:
            for name, roles in using.items():
                rank = lambda a, w, u=roles: fold.ranking.late(fold.query, a, w, u, late)  # noqa: E731
                fold.add(f"late/{name}", archive, fold.queries_with(roles), rank)
    return fold.rows


def _add_rows_of_one_model(fold: _Fold, archive: str, using: Mapping[str, Sequence[str]]) -> None:
    """Adds the rows of every subset and of the named sets and, in the headline's archive, of joint points and points with answers.

    The queries of a subset have all its roles; those of a named set have at least one.
    """
    experts = fold.query.experts
    for subset in subsets_of(using["full"]):
        whole = np.flatnonzero(experts.having(subset).sum(1) == len(subset))
        fold.add_points(key_of(subset), archive, whole, subset, "matched")
    for name, roles in using.items():
        fold.add_points(name, archive, fold.queries_with(roles), roles, "matched")
        if archive == fold.headline:
            fold.add_points(f"joint/{name}", archive, fold.queries_with(roles), roles, "joint")
            fold.add_points(f"with_answers/{name}", archive, fold.queries_with(roles), roles, "with_answers")


def _sides(
    models: Sequence[MMVAE], cohort: Cohort, split: Split, relevance: Sequence[Relevance], cache: Path | None
) -> dict[str, Side]:
    """The labelled cases of each non-empty part of the split."""
    sides = {}
    for name in PARTS:
        patients = set(split.part(name))
        cases = [case for case in cohort.cases if case.patient in patients]
        if not cases and name == "test":
            raise InputError("the test split holds no case; evaluation needs some")
        if cases:
            sides[name] = Side.of(cases, _experts(models, cohort, cases, cache), relevance)
    if not sides["test"].cases:
        labels = [list(level.same) for level in relevance]
        raise InputError(f"no test case has the labels {labels}; nothing to evaluate")
    return sides


def _fold(
    models: Sequence[MMVAE], sides: Mapping[str, Side], headline: str, relevance: tuple[Relevance, ...]
) -> _Fold:
    archives = {"unseen": sides["test"]}
    if "train" in sides and sides["train"].cases:
        archives["training"] = sides["train"]
    if headline not in archives:
        raise InputError(f"the {headline} archive holds no labelled case")
    space = models[0].space
    if len(models) > 1:  # their experts already are points
        space = RetrievalSpace(PoE(prior_expert=False), distance=space.distance)
    return _Fold(Ranking(space, relevance), sides["test"], archives, headline, {})


def _experts(models: Sequence[MMVAE], cohort: Cohort, cases: Sequence[Case], cache: Path | None) -> Experts:
    """The experts of one model; of several single-role models, their points as the experts of their roles."""
    parts = [embed(model, cohort, cases, cache=cache) for model in models]
    if len(parts) == 1:
        return parts[0]
    names = [role for part in parts for role in part.query_roles]
    if len(set(names)) != len(names):
        raise InputError(
            f"the checkpoints share the roles {sorted({n for n in names if names.count(n) > 1})}; for late fusion give one per role"
        )
    # Each model's own point is the expert of its role; a space of fewer dimensions is padded with zeros.
    points = [part.points(model.space, part.having(part.query_roles)) for model, part in zip(models, parts)]
    widest = max(point.shape[1] for point in points)
    mean = np.stack([np.pad(point, ((0, 0), (0, widest - point.shape[1]))) for point in points], 1)
    present = np.stack([part.having(part.query_roles).any(1) for part in parts], 1)
    return Experts(tuple(names), (), parts[0].case_ids, mean, np.zeros_like(mean), present)
