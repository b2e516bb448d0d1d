"""The twin-scanner shift: the same digital patients on another scanner, and how far their neighbour lists agree.

python -m benchmarks.twins --work runs/bench --results benchmarks/results/twins.jsonl

Each test patient queries the other test patients (as they were scanned first) twice: by her first examination and by
that of her twin on the next scanner. Agreement is the rank correlation (Spearman) of the two lists, own patient out.
Beside it: the lists of two patients with the same histology, and of any two patients.
"""

import argparse
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.benches import SIZES
from benchmarks.setup import IMAGES
from mmvae.atomic import new_folder
from mmvae.case import Case
from mmvae.cohort import Cohort, write_cohort
from mmvae.evaluation.ranking import Ranking, Side
from mmvae.metrics.estimates import resamples
from mmvae.model import MMVAE
from mmvae.phantom.cohort import in_processes, write_case
from mmvae.phantom.patient import Patient, parameters, population
from mmvae.phantom.scanner import scanner_of
from mmvae.retrieval.embed import embed
from mmvae.splits import Split, Splits


def write_twins(cohort: Cohort, sizes: tuple[int, ...], seed: int, out: Path) -> Cohort:
    """The test patients of a phantom, each on the scanner after her own: a cohort at `out`, written unless it is there.

    Args:
        cohort: The phantom.
        sizes: Its training, validation and test patients.
        seed: Of its patients.
        out: Folder of the twins.
    """
    if out.exists():
        return Cohort.load(out)
    names = list(parameters()["scanners"])
    after = {name: names[(n + 1) % len(names)] for n, name in enumerate(names)}
    patients = population(sum(sizes), seed)[-sizes[2] :]
    with new_folder(out) as folder:
        write = partial(_write, after=after, seed=seed, root=folder)
        cases = in_processes(write, patients, os.cpu_count() or 1, lambda items, _: items)
        patients = tuple(case.patient for case in cases)
        write_cohort(folder, cohort.card, cases, Splits((Split((), (), patients),), seed=seed))
        (folder / "skipped.jsonl").write_text("")
    return Cohort.load(out)


def _write(patient: Patient, after: Mapping[str, str], seed: int, root: Path) -> Case:
    return write_case(patient, seed, root, "quick", after[scanner_of(patient)])


def agreement(model: MMVAE, cohort: Cohort, twins: Cohort) -> dict:
    """Rank correlation of each patient's two lists by the group images, and that of lists of different patients."""
    first = list(cohort.split("test"))
    by_patient = {case.patient: case for case in twins.cases}
    second = [by_patient[case.patient] for case in first]
    relevance = cohort.card.relevance
    ranking = Ranking(model.space, relevance)
    sides = [Side.of(c, embed(model, of, c), relevance) for c, of in ((first, cohort), (second, twins))]
    rows = np.flatnonzero(sides[0].experts.having(IMAGES).any(1))
    lists = [ranking.table(side, sides[0], rows, IMAGES, "matched")[0] for side in sides]
    mAP = {}
    for name, distance, side in zip(("first", "twin"), lists, sides):
        queries = [side.cases[i] for i in rows]
        mAP[name] = ranking.judge(distance, np.isfinite(distance), queries, sides[0].cases)[0].mAP
    itself, alike, any_two = [], [], []
    rng = np.random.default_rng(0)
    histology = np.array([sides[0].cases[i].labels["histology"] for i in rows])
    for n, row in enumerate(rows):
        others = [m for m in range(len(rows)) if m != n]
        kin = [m for m in others if histology[m] == histology[n]]
        itself.append(correlation(lists[0][n], lists[1][n], row))
        alike.append(correlation(lists[0][n], lists[0][rng.choice(kin)], row) if kin else np.nan)
        any_two.append(correlation(lists[0][n], lists[0][rng.choice(others)], row))
    return {
        "rank correlation with the twin's list": interval(np.array(itself)),
        "with the list of a patient of the same histology": interval(np.array(alike)),
        "with any patient's list": interval(np.array(any_two)),
        "mAP, first examination": interval(mAP["first"]),
        "mAP, twin": interval(mAP["twin"]),
    }


def correlation(a: np.ndarray, b: np.ndarray, own: int | np.integer) -> float:
    """Spearman's rank correlation over the archive cases that both lists rank, without the query's own."""
    keep = np.isfinite(a) & np.isfinite(b)
    keep[own] = False
    return float(stats.spearmanr(a[keep], b[keep]).statistic)


def interval(x: np.ndarray) -> dict[str, float | None]:
    """Mean and its 95 % interval over resampled patients; undefined ones are left out, null where all are."""
    x = x[~np.isnan(x)]
    if not len(x):
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = np.percentile(resamples(len(x)) @ x / len(x), [2.5, 97.5])
    return {"value": float(x.mean()), "low": float(low), "high": float(high), "n": len(x)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of `mmvae-bench phantom --seed 1`")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("cells", nargs="*", default=["report+findings-1", "none-1", "labels-1"])
    arguments = parser.parse_args()
    cohort = Cohort.load(arguments.work / "cohort")
    twins = write_twins(cohort, SIZES, 1, arguments.work / "twins")
    lines = []
    for cell in arguments.cells:
        model = MMVAE.load_from_checkpoint(arguments.work / "runs" / cell / "best.ckpt")
        lines.append({"cell": cell, "measurement": agreement(model, cohort, twins), "phantom": cohort.card.phantom,
                      "splits": cohort.splits.sha256, "config": model.config()})  # fmt: skip
        print(cell, json.dumps(lines[-1]["measurement"], indent=1))
    arguments.results.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
