"""Evaluates checkpoints on a cohort: a table with every number of EVALUATION.md, folds pooled."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmvae.case import Relevance
from mmvae.cohort import Cohort
from mmvae.errors import InputError
from mmvae.evaluation.fold import evaluate_fold
from mmvae.evaluation.table import Table, pool
from mmvae.metrics.estimates import DRAWS, PerPatient
from mmvae.metrics.relevance import counts_as_relevant
from mmvae.metrics.scores import METRICS
from mmvae.model import MMVAE
from mmvae.splits import Splits

UNSEEN_FROM = 90  # with this many test patients or more, the headline's archive is the other test patients


def evaluate(
    models: Sequence[MMVAE], cohort: Cohort, relevance_target: str | None = None, cache: Path | None = None
) -> Table:
    """The table of one checkpoint, of one per fold (test patients pooled), or of one per role (late fusion).

    Args:
        models: Models loaded from checkpoints.
        cohort: The cohort that they were trained on.
        relevance_target: A single target in place of the card's graded relevance.
        cache: Folder that caches observations.

    Raises:
        InputError: if there are no splits or no relevance, or a model was trained on other splits.

    >>> from mmvae.case import Card, Case
    >>> from mmvae.splits import draw_splits
    >>> from mmvae_clinical import Clinical
    >>> card = Card("ages", "table", targets=("group",), relevance=(Relevance(1, ("group",)),))
    >>> group = lambda age: {"group": "old" if age > 40 else "young"}
    >>> cases = tuple(Case(f"c{n}", f"p{n}", record={"age_years": 20.0 + n}, labels=group(20 + n)) for n in range(40))
    >>> cohort = Cohort(Path(), card, cases, draw_splits([case.patient for case in cases]))
    >>> model = MMVAE({"clinical": Clinical()}, latent_dim=2)
    >>> model.fit_recipes(cohort, cohort.split("train"))  # not trained
    >>> table = evaluate([model], cohort)
    >>> table.metrics()["full"]["mAP"].n, len(cohort.split("test"))
    (10, 10)
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
            raise InputError(f"{target!r} is not a target; card.json lists {listed}", "relevance")
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
    """Each patient's class, if a single label decides what counts as relevant; else nothing."""
    at_least = counts_as_relevant(relevance)
    target = min((r for r in relevance if r.gain >= at_least), key=lambda level: level.gain).same
    if len(target) != 1:
        return {}
    return {c.patient: str(c.labels[target[0]]) for c in cohort.cases if target[0] in c.labels}
