"""Real patients: 77 lower-grade gliomas, cross-validated by patient, beside k-NN and chance, rows by supervision.

    mmvae scan $MMVAE_DATA/tcga_lgg_mri --map experiments/tcga_lgg/map.yaml --records $MMVAE_DATA/tcga_lgg_mri/clinical.csv \
      --folds 5 --split-seed 1 --out runs/tcga/cohort
    python -m benchmarks.tcga_lgg --cohort runs/tcga/cohort --work runs/tcga --results benchmarks/results/tcga_lgg
"""

import argparse
import json
import os
import platform
from pathlib import Path

import numpy as np
from mmvae_clinical import Clinical
from mmvae_mri.structural import FLAIR, T1
from mmvae_terms import Terms

from benchmarks import neighbours
from benchmarks.setup import Budget, train, versions
from benchmarks.units import load, save
from mmvae.batch import MotionRange
from mmvae.case import Cohort
from mmvae.discovery import kind_of
from mmvae.latent.fusion import PoE
from mmvae.model import MMVAE
from mmvae.retrieval.evaluate import Ranking, evaluate, pool
from mmvae.retrieval.metrics import PerPatient, labelled, paired, summarise
from mmvae.volume import load_nifti

GRID = {"shape": (16, 40, 40), "spacing_mm": (9.0, 5.0, 5.0)}
IMAGES = ("t1", "flair", "t1_post")
TARGETS = ("molecular", "location")
# No left-right flip: laterality is a finding, and a flip would destroy it.
MOTION = MotionRange(rotation_deg=8.0, translation_mm=6.0, scale=0.08)
SUPERVISION = {"none": (), "findings": ("terms",), "labels": ("molecular", "location")}


def recipes(answers: tuple[str, ...]) -> dict:
    """The three sequences, age and sex, and the decoded answers of a row."""
    every = {
        "terms": Terms(),
        "molecular": Terms(source="labels", label="molecular"),
        "location": Terms(source="labels", label="location"),
    }
    images = {"t1": T1(**GRID), "flair": FLAIR(**GRID), "t1_post": T1(contrast_agent=True, **GRID)}
    return {
        **images,
        "clinical": Clinical(fields=("age_years", "sex")),
        **{role: every[role] for role in answers},
    }


def ours(
    cohort: Cohort, path: str, supervision: str, budget: Budget, work: Path
) -> dict[str, dict[str, PerPatient]]:
    """One model a fold; test patients pooled, both targets."""
    answers, models = SUPERVISION[supervision], []
    for fold in range(len(cohort.splits.folds)):
        model = MMVAE(
            recipes(answers),
            latent_dim=budget.latent_dim,
            answer_roles=list(answers),
            visible={**dict.fromkeys((*IMAGES, "clinical"), 0.4), **dict.fromkeys(answers, 0.1)},
            subsets=6,
            scored=0.35,
            weights=dict.fromkeys(answers, 1000.0),
            groups={"images": list(IMAGES)},
            lr=budget.lr,
            weight_decay=0.1,
            seed=1,
        )
        models.append(train(model, path, 1, budget, work / "runs" / f"{supervision}-{fold}", MOTION, fold))
    return {target: dict(evaluate(models, cohort, target).rows) for target in TARGETS}


def native_histograms(cohort: Cohort, series: tuple[str, ...], bins: int = 16) -> np.ndarray:
    """Share of brain voxels in each bin of the intensities as stored (10–255), standardised over the cases; absent is 0."""
    recipe, columns = recipes(()), []
    for role in series:
        rows = np.full((len(cohort.cases), bins), np.nan)
        for n, case in enumerate(cohort.cases):
            found = recipe[role].select([a for a in case.assets if a.kind == kind_of(recipe[role], role)])
            if found:
                volume = load_nifti(cohort.root / found[0].uri)[0].numpy()
                brain = volume[volume > 10]
                rows[n] = np.histogram(brain, bins, (10, 255))[0] / max(1, brain.size)
        columns.append(np.nan_to_num((rows - np.nanmean(rows, 0)) / (np.nanstd(rows, 0) + 1e-6)))
    return np.concatenate(columns, 1)


def knn(cohort: Cohort) -> dict[str, dict[str, PerPatient]]:
    """Every k-NN baseline and, as `best`, the one that is best by validation, fold by fold."""
    cases, made = list(cohort.cases), {}
    native = {
        "native histogram of flair": native_histograms(cohort, ("flair",)),
        "native histograms": native_histograms(cohort, IMAGES),
    }
    for target in TARGETS:
        relevance = ({"gain": 1, "same": [target]},)
        ranking = Ranking(PoE(), "cosine", relevance)
        known = labelled([case.labels for case in cases], relevance)
        parts: dict[str, list[PerPatient]] = {}
        for fold in cohort.splits.folds:
            tables = native | neighbours.features(
                cohort, cases, {r: m for r, m in recipes(()).items() if r in IMAGES}, set(fold.train)
            )
            rows = {
                name: np.array(
                    [i for i, c in enumerate(cases) if known[i] and c.patient in set(getattr(fold, name))]
                )
                for name in ("train", "validation", "test")
            }
            value = {}
            for kind, table in tables.items():
                value[kind] = float(
                    np.nanmean(
                        neighbours.rank(table, rows["validation"], rows["train"], cases, ranking).value[:, 3]
                    )
                )
                parts.setdefault(kind, []).append(
                    neighbours.rank(table, rows["test"], rows["train"], cases, ranking)
                )
            best = max(value, key=value.get)
            parts.setdefault("best", []).append(
                neighbours.rank(tables[best], rows["test"], rows["train"], cases, ranking)
            )
        made[target] = {kind: pool(each) for kind, each in parts.items()}
        # The data's README gives its figures with every other patient as archive.
        everyone = np.flatnonzero(known)
        for kind, table in native.items():
            made[target][f"{kind}, all others as archive"] = neighbours.rank(
                table, everyone, everyone, cases, ranking
            )
    return made


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    cohort = Cohort.load(arguments.cohort)
    budget = Budget(epochs=arguments.epochs, batch_size=16, lr=1e-3, latent_dim=32)
    tables: dict[str, dict[str, dict[str, PerPatient]]] = {}
    for name in ("k-NN", *SUPERVISION):
        for_target = {}
        files = {target: arguments.work / "units" / f"{name}-{target}.json" for target in TARGETS}
        if not all(path.exists() for path in files.values()):
            rows = (
                knn(cohort)
                if name == "k-NN"
                else ours(cohort, str(arguments.cohort), name, budget, arguments.work)
            )
            for target, path in files.items():
                save(path, rows[target], {})
        for target, path in files.items():
            for_target[target] = load(path)[0]
        tables[name] = for_target
    lines, text = (
        [],
        [
            "| target | row | n | mAP (95 %) | P@5 (95 %) | minus k-NN, mAP |",
            "| --- | --- | --- | --- | --- | --- |",
        ],
    )
    span = lambda m: f"{m['value']:.3f} ({m['low']:.3f}–{m['high']:.3f})"  # noqa: E731
    for target in TARGETS:
        base = tables["k-NN"][target]["best"]
        chance = summarise(base.value, base.chance)
        text.append(
            f"| {target} | chance | {chance['mAP']['n']} | {chance['mAP']['chance']:.3f} | {chance['P@5']['chance']:.3f} | |"
        )
        shown = {
            "k-NN, best by validation": base,
            **{f"k-NN {k}": r for k, r in tables["k-NN"][target].items() if k != "best"},
        }
        for name in SUPERVISION:
            shown |= {
                f"ours, {name}: {key}": tables[name][target][key] for key in ("group/images", "full", *IMAGES)
            }
        for name, row in shown.items():
            metrics, difference = summarise(row.value, row.chance), paired(row, base)
            supervision = name.removeprefix("ours, ").split(":")[0] if name.startswith("ours") else "none"
            text.append(
                f"| {target} | {name} | {metrics['mAP']['n']} | {span(metrics['mAP'])} | {span(metrics['P@5'])} | {span(difference['mAP'])} |"
            )
            lines.append(
                {"row": name, "target": target, "supervision": supervision, "metrics": {"row": metrics, "paired/row-knn": difference},
                 "config": {"epochs": budget.epochs, "batch_size": budget.batch_size, "lr": budget.lr, "latent_dim": budget.latent_dim, "weight_decay": 0.1},
                 "seed": 1, "versions": versions(), "hardware": f"{platform.machine()}, {os.cpu_count()} cores", "splits": cohort.splits.sha256,
                 "phantom": None, "weights": "balanced; answers 1000"}
            )  # fmt: skip
    print("\n".join(text))
    if arguments.results:
        arguments.results.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        arguments.results.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
