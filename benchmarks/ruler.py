"""Is the phantom neither too easy nor too hard? The limits of EVALUATION.md's last part, measured and printed.

python -m benchmarks.ruler --work runs/headline --results benchmarks/results/ruler.jsonl
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score

from mmvae.blocks.geometry import load_nifti
from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.evaluation.ranking import Ranking
from mmvae.latent.space import RetrievalSpace
from mmvae.phantom.patient import Patient, orads, phantom_hash, population
from mmvae.phantom.scanner import anatomy_of, scanner_of
from mmvae.phantom.words import TERMS, answers, reading, terms_of


def reader_agreement(patients: list[Patient], seed: int = 0) -> float:
    """Cohen's κ between the O-RADS score of one reader (true curves plus noise, a little error) and the truth."""
    rng = np.random.default_rng(seed)
    return float(cohen_kappa_score([p.orads for p in patients], [orads(reading(p, rng)) for p in patients]))


def findings_accuracy(patients: list[Patient], train: int, noisy: bool, seed: int = 0) -> float:
    """The better of two classifiers' accuracies of histology from findings.

    Args:
        patients: The first `train` fit the classifiers, the others are classified.
        train: How many.
        noisy: Whether findings are read with error, or true.
        seed: Of the reading and of the random forest.
    """
    rng, names = np.random.default_rng(seed), [t["name"] for t in TERMS]
    listed = [
        terms_of(reading(p, rng), rng) if noisy else [f"{q}: {a}" for q, a in answers(p.findings).items()]
        for p in patients
    ]
    x = np.array([[name in of_patient for name in names] for of_patient in listed], float)
    y = np.array([p.histology for p in patients])
    models = (
        LogisticRegression(max_iter=2000, C=0.3),
        RandomForestClassifier(300, min_samples_leaf=2, random_state=seed),
    )
    return max(float(m.fit(x[:train], y[:train]).score(x[train:], y[train:])) for m in models)


def lesion_means(case: Case, root: Path, patient: Patient) -> np.ndarray:
    """Mean intensity within the true lesion over the body's median, of each volume of each series; NaN where absent."""
    anatomy = anatomy_of(patient, scanner_of(patient))
    mask = (anatomy.mask[0::2] | anatomy.mask[1::2]).transpose(2, 1, 0)
    columns = []
    for role in (("t1", False), ("t1", True), ("t2", False), ("dwi", True), ("contrast", True)):
        series = [a for a in case.assets if a.kind == role[0] and a.facts.get("fat_saturated") == role[1]]
        count = {"dwi": 3, "contrast": 8}.get(role[0], 1)
        if not series:
            columns += [np.nan] * count
            continue
        volumes, _ = load_nifti(root / series[0].uri)
        first = volumes[0]
        scale = float(first[first > 0.1 * torch.quantile(first.flatten()[::17], 0.995)].median())
        columns += [float(v.numpy()[mask].mean()) / scale for v in volumes]
    return np.array(columns)


def lesion_mean_knn(cohort: Cohort, seed: int) -> float:
    """mAP of k-NN on the lesion's mean intensities among test cases, by Euclidean distance of standardised features."""
    cases = list(cohort.cases)
    patients = population(len(cases), seed)
    table = np.stack([lesion_means(c, cohort.root, p) for c, p in zip(cases, patients)])
    train = np.array([c.patient in set(cohort.splits.fold(None).train) for c in cases])
    mean, std = np.nanmean(table[train], 0), np.nanstd(table[train], 0) + 1e-6
    table = np.nan_to_num((table - mean) / std)
    rows = np.array([i for i, c in enumerate(cases) if c.patient in set(cohort.splits.fold(None).test)])
    z = torch.from_numpy(table[rows]).float()
    test = [cases[i] for i in rows]
    ranking = Ranking(RetrievalSpace(distance="euclidean"), cohort.card.relevance)
    distance = ranking.space.distances(z, z).numpy()
    value, _ = ranking.judge(distance, np.ones((len(rows), len(rows)), bool), test, test)
    return float(np.nanmean(value.mAP))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of benchmarks.headline")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    cohort = Cohort.load(arguments.work / "cohort")
    patients = population(len(cohort.cases), arguments.seed)
    train = len(cohort.splits.fold(None).train)
    measured = {
        "reader kappa": reader_agreement(patients),
        "true findings accuracy": findings_accuracy(patients, train, noisy=False),
        "noisy findings accuracy": findings_accuracy(patients, train, noisy=True),
        "lesion mean intensities mAP": lesion_mean_knn(cohort, arguments.seed),
    }
    print(json.dumps(measured, indent=1))
    if arguments.results:
        line = {
            "measurement": measured,
            "phantom": phantom_hash(),
            "seed": arguments.seed,
            "splits": cohort.splits.sha256,
        }
        arguments.results.write_text(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
