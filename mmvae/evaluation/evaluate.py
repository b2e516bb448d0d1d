"""Every number of EVALUATION.md from checkpoints and a cohort: all subsets, matched, joint and late, with intervals and chance."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmvae.case import Case, Relevance
from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.evaluation.ranking import Distances, Ranking, Side, choose_late_rule
from mmvae.latent.fusion import PoE
from mmvae.latent.space import RetrievalSpace
from mmvae.metrics.estimates import DRAWS, Estimate, PerPatient, by_patient, paired, summarise
from mmvae.metrics.relevance import counts_as_relevant
from mmvae.metrics.scores import METRICS, Scores
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.search import ArchiveRoles
from mmvae.splits import PARTS, Split, Splits

UNSEEN_FROM = 90  # test patients from which the other test patients are the headline's archive


def subsets_of(roles: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, the roles of each sorted, smallest subsets first.

    >>> subsets_of(["t2", "dwi"])
    [('dwi',), ('t2',), ('dwi', 't2')]
    """
    return [tuple(sorted(s)) for size in range(1, len(roles) + 1) for s in combinations(sorted(roles), size)]


def key_of(subset: Iterable[str]) -> str:
    """Sorted role names joined by +, as metrics.json names a subset.

    >>> key_of(("t2", "dwi"))
    'dwi+t2'
    """
    return "+".join(sorted(subset))


@dataclass(frozen=True)
class Table:
    """Per-patient scores by KEY of metrics.json, and what produced them.

    Args:
        rows: By KEY.
        classes: Class of each patient, where one label decides relevance.
        protocol: Archive, splits, relevance, bootstrap, supervision …
    """

    rows: Mapping[str, PerPatient]
    classes: Mapping[str, str]
    protocol: Mapping[str, Any]

    def metrics(self) -> dict[str, dict[str, Estimate]]:
        """Estimates by KEY: of every row, of paired differences, per class and macro-averaged."""
        estimates = {key: summarise(row) for key, row in self.rows.items()}
        singles = [key for key in self.rows if "/" not in key and "+" not in key and key != "full"]
        heads = ["full", *[key for key in self.rows if key.startswith("group/")]]
        heads = [head for head in heads if head in self.rows]
        for head in heads:
            rivals = [*singles, *[key for key in [f"late/{head}"] if key in self.rows]]
            for rival in rivals:
                estimates[f"paired/{head}-{rival}"] = paired(self.rows[head], self.rows[rival])
        for key in (*heads, *singles):
            estimates |= self._by_class(key)
        return estimates

    def _by_class(self, key: str) -> dict[str, dict[str, Estimate]]:
        """The row's estimates within each class, and their mean with every class counting equally."""
        row = self.rows[key]
        class_of = np.array([self.classes.get(patient, "") for patient in row.patients])
        names = sorted(set(class_of) - {""})
        estimates = {f"class/{name}/{key}": summarise(row.rows(class_of == name)) for name in names}
        known = row.rows(class_of != "")
        size_of = {name: (class_of == name).sum() for name in names}
        share = np.array([1 / size_of[name] for name in class_of if name]) * len(known.patients)
        share = share[:, None] / max(len(names), 1)
        macro = PerPatient(
            known.patients, Scores(known.value.table * share), Scores(known.chance.table * share)
        )
        return {**estimates, f"macro/{key}": summarise(macro)}


@dataclass
class _Fold:
    """One fold's queries, archives and ranking, and its rows so far."""

    ranking: Ranking
    query: Side
    archives: Mapping[str, Side]
    headline: str
    rows: dict[str, PerPatient]

    def everyone(self, using: Iterable[str]) -> np.ndarray:
        """The queries that have any of these roles."""
        return np.flatnonzero(self.query.experts.having(using).any(1))

    def add(
        self, key: str, archive: str, which: np.ndarray, rank: Callable[[Side, np.ndarray], Distances]
    ) -> None:
        """Adds a row of the queries `which` in an archive; its key names the archive unless that is the headline's.

        Args:
            key: Of the row.
            archive: A key of `archives`.
            which: Numbers of the queries.
            rank: The distances of such queries in an archive.
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
        """Adds a row ranked by points of the space, queries formed of the roles `using`."""
        self.add(key, archive, which, lambda a, w: self.ranking.table(self.query, a, w, using, roles))


def evaluate_fold(
    models: Sequence[MMVAE],
    cohort: Cohort,
    split: Split,
    headline: str,
    relevance: Sequence[Relevance],
    cache: Path | None = None,
) -> dict[str, PerPatient]:
    """Every row of one fold, by patient.

    Args:
        models: One, or several with one query role each (late fusion of separate models).
        cohort: Of the cases.
        split: Its test patients ask; they and the training patients are the archives.
        headline: The archive whose rows have no prefix: `unseen` or `training`.
        relevance: What counts as similar.
        cache: Folder for observations as read.

    Raises:
        InputError: where no test case has a label, or the headline's archive holds none.
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
                fold.add_points(role, archive, fold.everyone([role]), [role], "matched")
        else:
            _add_rows_of_one_model(fold, archive, using)
        if several or archive == headline:
            for name, roles in using.items():
                rank = lambda a, w, u=roles: fold.ranking.late(fold.query, a, w, u, late)  # noqa: E731
                fold.add(f"late/{name}", archive, fold.everyone(roles), rank)
    return fold.rows


def _add_rows_of_one_model(fold: _Fold, archive: str, using: Mapping[str, Sequence[str]]) -> None:
    """Adds the rows of every subset, of the named sets and, in the headline's archive, of joint points and points with answers.

    A subset's queries have all its roles; those of a named set have at least one.
    """
    had = fold.query.experts
    for subset in subsets_of(using["full"]):
        whole = np.flatnonzero(had.having(subset).sum(1) == len(subset))
        fold.add_points(key_of(subset), archive, whole, subset, "matched")
    for name, roles in using.items():
        fold.add_points(name, archive, fold.everyone(roles), roles, "matched")
        if archive == fold.headline:
            fold.add_points(f"joint/{name}", archive, fold.everyone(roles), roles, "joint")
            fold.add_points(f"with_answers/{name}", archive, fold.everyone(roles), roles, "with_answers")


def _sides(
    models: Sequence[MMVAE], cohort: Cohort, split: Split, relevance: Sequence[Relevance], cache: Path | None
) -> dict[str, Side]:
    """The labelled cases of each part of the split that has any case."""
    sides = {}
    for name in PARTS:
        patients = set(split.part(name))
        cases = [case for case in cohort.cases if case.patient in patients]
        if not cases and name == "test":
            raise InputError("the test split holds no case; evaluation needs some")
        if cases:
            sides[name] = Side.of(cases, _experts(models, cohort, cases, cache), relevance)
    if not sides["test"].cases:
        wanted = [list(level.same) for level in relevance]
        raise InputError(f"no test case has the labels {wanted}; nothing to evaluate")
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
    if len(models) > 1:  # their experts are points already
        space = RetrievalSpace(PoE(prior_expert=False), distance=space.distance)
    return _Fold(Ranking(space, relevance), sides["test"], archives, headline, {})


def _experts(models: Sequence[MMVAE], cohort: Cohort, cases: Sequence[Case], cache: Path | None) -> Experts:
    """The experts of one model; or the points of several single-role models side by side, as experts of their roles."""
    parts = [embed(model, cohort, cases, cache=cache) for model in models]
    if len(parts) == 1:
        return parts[0]
    names = [role for part in parts for role in part.query_roles]
    if len(set(names)) != len(names):
        raise InputError(
            f"the checkpoints share the roles {sorted({n for n in names if names.count(n) > 1})}; for late fusion give one per role"
        )
    # Each model's own point, as the expert of its role; a space of fewer dimensions is filled up with zeros.
    points = [part.points(model.space, part.having(part.query_roles)) for model, part in zip(models, parts)]
    widest = max(point.shape[1] for point in points)
    mean = np.stack([np.pad(point, ((0, 0), (0, widest - point.shape[1]))) for point in points], 1)
    present = np.stack([part.having(part.query_roles).any(1) for part in parts], 1)
    return Experts(tuple(names), (), parts[0].case_ids, mean, np.zeros_like(mean), present)


def evaluate(
    models: Sequence[MMVAE], cohort: Cohort, relevance_target: str | None = None, cache: Path | None = None
) -> Table:
    """The table of one checkpoint, of one per fold (test patients pooled), or of one per role (late fusion).

    Args:
        models: Loaded from checkpoints.
        cohort: The one that they were trained on.
        relevance_target: One target instead of the card's graded list.
        cache: Folder for observations as read.

    Raises:
        InputError: where there are no splits, no relevance, or a model was trained on other splits.
    """
    if cohort.splits is None:
        raise InputError("the cohort has no splits.json; evaluation needs test cases")
    relevance = _relevance(cohort, relevance_target)
    _refuse_other_splits(models, cohort.splits)
    folds = [model.data_identity.get("fold") for model in models]
    by_fold = {fold: [m for m, f in zip(models, folds) if f == fold] for fold in dict.fromkeys(folds)}
    single = cohort.splits.single
    headline = "unseen" if single and len(cohort.splits.folds[0].test) >= UNSEEN_FROM else "training"
    parts: dict[str, list[PerPatient]] = {}
    for fold, of_fold in by_fold.items():
        rows = evaluate_fold(of_fold, cohort, cohort.splits.fold(fold), headline, relevance, cache)
        for key, row in rows.items():
            parts.setdefault(key, []).append(row)
    protocol = {
        "archive": headline,
        "queries": "test",
        "folds": None if single else len(by_fold),
        "splits": cohort.splits.sha256,
        "relevance": [{**asdict(level), "same": list(level.same)} for level in relevance],
        "bootstrap": {"draws": DRAWS, "unit": "patient", "interval": 0.95},
        "distance": [model.space.distance for model in models],
        "supervision": sorted({s for m in models for r, s in m.supervision.items() if s != "none"})
        or ["none"],
        "weights": {role: weight for model in models for role, weight in model.weight_of.items()},
        "phantom": cohort.card.phantom,
        "metrics": list(METRICS),
    }
    pooled = {key: pool(of_key) for key, of_key in parts.items()}
    return Table(pooled, _classes(cohort, relevance), protocol)


def _relevance(cohort: Cohort, target: str | None) -> tuple[Relevance, ...]:
    if target is not None:
        if target not in cohort.card.targets:
            listed = list(cohort.card.targets)
            raise InputError(f"{target!r} is no target; card.json lists {listed}", "relevance")
        return (Relevance(1, (target,)),)
    if not cohort.card.relevance:
        raise InputError("card.json lists no relevance; name a target, or write it into the MAP", "relevance")
    return cohort.card.relevance


def _refuse_other_splits(models: Sequence[MMVAE], splits: Splits) -> None:
    for model in models:
        trained_on = model.data_identity.get("splits")
        if trained_on is not None and trained_on != splits.sha256:
            raise InputError(
                "a checkpoint was trained on other splits than this cohort's splits.json; its test patients may have been trained "
                "on. Evaluate it on the cohort that it was trained on."
            )


def _classes(cohort: Cohort, relevance: Sequence[Relevance]) -> dict[str, str]:
    """Each patient's class, where one label decides what counts as relevant."""
    at_least = counts_as_relevant(relevance)
    target = min((r for r in relevance if r.gain >= at_least), key=lambda level: level.gain).same
    if len(target) != 1:
        return {}
    return {c.patient: str(c.labels[target[0]]) for c in cohort.cases if target[0] in c.labels}


def pool(parts: Sequence[PerPatient]) -> PerPatient:
    """The patients of all folds, sorted; each is a test patient of one fold."""
    together = PerPatient(
        tuple(patient for part in parts for patient in part.patients),
        Scores(np.concatenate([part.value.table for part in parts])),
        Scores(np.concatenate([part.chance.table for part in parts])),
    )
    order = sorted(range(len(together.patients)), key=lambda n: together.patients[n])
    return together.rows(order)


def average(seeds: Sequence[PerPatient]) -> PerPatient:
    """Each patient's scores averaged over trainings of several seeds, all of the same patients."""
    patients = seeds[0].patients
    if any(row.patients != patients for row in seeds):
        raise InputError("the seeds ranked different patients; they must share splits")
    value, chance = ([getattr(row, side).table for row in seeds] for side in ("value", "chance"))
    return PerPatient(patients, Scores(np.mean(value, 0)), Scores(np.mean(chance, 0)))
