"""An evaluation as files: metrics.json and plots, by rename at the end."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmvae.case import Cohort, InputError
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed
from mmvae.retrieval.evaluate import evaluate
from mmvae.retrieval.plots import by_class, space_map, subset_curve


def write_evaluation(
    models: Sequence[MMVAE], cohort: Cohort, out: Path, relevance: str | None = None
) -> dict:
    """Writes metrics.json and plots into `out`; returns the metrics."""
    if out.exists():
        raise InputError(f"{out} exists already; name a folder that does not, or remove it")
    table = evaluate(models, cohort, relevance)
    metrics = {
        **table.metrics(),
        "protocol": dict(table.protocol),
        "fingerprint": [m.fingerprint() for m in models],
    }
    beside = out.with_name(f".{out.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        (beside / "metrics.json").write_text(json.dumps(metrics, indent=1, allow_nan=False))
        if "full" in metrics:
            subset_curve(metrics, beside / "subsets.png")
            by_class(metrics, beside / "classes.png")
            # The map is of one model's space; with folds, of the first's test patients.
            model = models[0]
            fold = cohort.splits.fold(model.data_identity.get("fold"))
            cases = [
                case
                for case in cohort.cases
                if case.patient in set(fold.test) and case.patient in table.classes
            ]
            if len(cases) > 2:
                experts = embed(model, cohort, cases)
                means = experts.means(model.rule, experts.having(experts.query_roles))
                space_map(np.asarray(means), [table.classes[c.patient] for c in cases], beside / "map.png")
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return metrics
