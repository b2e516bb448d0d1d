"""Writes an evaluation as a folder with metrics.json and plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmvae.atomic import new_folder
from mmvae.cohort import Cohort
from mmvae.evaluation.evaluate import evaluate
from mmvae.evaluation.plots import by_class, space_map, subset_curve
from mmvae.evaluation.table import Table
from mmvae.metrics.estimates import Estimate, plain
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed


def write_evaluation(
    models: Sequence[MMVAE], cohort: Cohort, out: Path, relevance: str | None = None
) -> dict[str, dict[str, Estimate]]:
    """Writes metrics.json and plots, and returns the estimates by KEY and metric.

    Args:
        models: Models loaded from checkpoints.
        cohort: The cohort that they were trained on.
        out: Path of the new folder; it appears whole, by a rename at the end.
        relevance: A single target in place of the card's graded relevance.

    Raises:
        InputError: if `out` exists, or the models cannot be evaluated on this cohort.
    """
    with new_folder(out) as folder:
        table = evaluate(models, cohort, relevance)
        estimates = table.metrics()
        content = {
            **{key: plain(of_key) for key, of_key in estimates.items()},
            "protocol": dict(table.protocol),
            "fingerprint": [model.fingerprint() for model in models],
        }
        (folder / "metrics.json").write_text(json.dumps(content, indent=1, allow_nan=False))
        if "full" in estimates:
            _plot(models[0], cohort, table, estimates, folder)
    return estimates


def _plot(
    model: MMVAE, cohort: Cohort, table: Table, estimates: Mapping[str, Mapping[str, Estimate]], folder: Path
) -> None:
    """Writes the plots; with folds the map shows the test patients of the first fold."""
    subset_curve(estimates, folder / "subsets.png")
    by_class(estimates, folder / "classes.png")
    cases = [
        case
        for case in cohort.split("test", model.data_identity.get("fold"))
        if case.patient in table.classes
    ]
    if len(cases) > 2:
        experts = embed(model, cohort, cases)
        points = experts.points(model.space, experts.having(experts.query_roles))
        space_map(points, [table.classes[case.patient] for case in cases], folder / "map.png")
