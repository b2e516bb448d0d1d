"""k-NN on each real cohort, with every table of features and, fold by fold, with the table that is best by validation."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from mmvae_clinical import Clinical
from mmvae_report import Report
from sklearn.decomposition import PCA

from benchmarks import neighbours
from benchmarks.benches import Bench
from mmvae.blocks.geometry import load_nifti
from mmvae.case import Relevance
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.discovery import kind_of
from mmvae.evaluation.ranking import Ranking
from mmvae.evaluation.table import pool
from mmvae.latent.space import RetrievalSpace
from mmvae.metrics.estimates import PerPatient
from mmvae.metrics.relevance import labelled
from mmvae.modality import TrainingViews
from mmvae.splits import Split

Features = Float[np.ndarray, "N F"]


def _of(bench: Bench, *kinds: type) -> tuple[str, ...]:
    """The roles of the group images whose recipe is one of these."""
    return tuple(role for role, recipe in bench.recipes(bench.images).items() if isinstance(recipe, kinds))


def native_histograms(cohort: Cohort, bench: Bench, series: tuple[str, ...], bins: int = 16) -> Features:
    """Histograms of the brain's intensities as stored (10–255), each bin standardised over the cases.

    Args:
        cohort: Of the cases.
        bench: Has the recipes.
        series: Roles whose histograms stand side by side; a series that a case lacks is 0, the mean.
        bins: Of each histogram.
    """
    recipes, columns = bench.recipes(series), []
    for role, recipe in recipes.items():
        rows = np.full((len(cohort.cases), bins), np.nan)
        for n, case in enumerate(cohort.cases):
            found = recipe.select([a for a in case.assets if a.kind == kind_of(recipe, role)])
            if found:
                volume = load_nifti(cohort.root / found[0].uri)[0].numpy()
                brain = volume[volume > 10]
                rows[n] = np.histogram(brain, bins, (10, 255))[0] / max(1, brain.size)
        columns.append(np.nan_to_num((rows - np.nanmean(rows, 0)) / (np.nanstd(rows, 0) + 1e-6)))
    return np.concatenate(columns, 1)


def numbers(cohort: Cohort, bench: Bench, training: set[str], roles: tuple[str, ...]) -> dict[str, Features]:
    """Tables of the numbers that came with the data, standardised by the training cases, a missing one at the mean.

    One table per role, all roles side by side, ranks of all, and principal components of all.

    Args:
        cohort: Of the cases.
        bench: Has the recipes.
        training: Patients that means, ranks and components are fitted on.
        roles: Of tables.
    """
    bare = CaseDataset(cohort, cohort.cases, bench.recipes(roles), ())
    fit = np.array([case.patient in training for case in cohort.cases])
    tables: dict[str, Features] = {}
    for role, recipe in bare.modalities.items():
        views = [bare.view(case, role) for case in cohort.cases]
        fitted = recipe.fitted(TrainingViews(cohort.card, [v for v, f in zip(views, fit) if f]))
        names = [name for name, categories in zip(fitted.fields, fitted.categories) if not categories]
        raw = np.array([[v.record.get(name, np.nan) for name in names] for v in views], float)
        raw = raw[:, ~np.isnan(raw[fit]).all(0)]  # a field that no training case has says nothing
        median = np.nanmedian(raw[fit], 0)
        filled = np.where(np.isnan(raw), median, raw)
        tables[role] = np.clip((filled - filled[fit].mean(0)) / (filled[fit].std(0) + 1e-9), -8, 8)
    every = np.concatenate(list(tables.values()), 1)
    rank = np.stack([np.searchsorted(np.sort(c[fit]), c) / fit.sum() - 0.5 for c in every.T], 1)
    reduced = (
        PCA(min(20, int(fit.sum()) - 1, every.shape[1]), random_state=0).fit(every[fit]).transform(every)
    )
    return {
        **tables,
        "all views": every,
        "ranks of all": rank,
        "pca of all": reduced / (reduced[fit].std(0) + 1e-9),
    }


def knn(cohort: Cohort, bench: Bench) -> tuple[dict[str, PerPatient], dict]:
    """Rows `TARGET|TABLE` of test patients pooled over the folds, `TARGET|best`, and the choice in each fold."""
    rows: dict[str, PerPatient] = {}
    chosen: dict[str, list[str]] = {}
    native = _native(cohort, bench)
    for target in bench.targets:
        ranking = Ranking(RetrievalSpace(), (Relevance(1, (target,)),))
        known = labelled([case.labels for case in cohort.cases], ranking.relevance)
        parts: dict[str, list[PerPatient]] = {}
        for fold in cohort.splits.folds:
            best, of_fold = _fold(cohort, bench, fold, native, known, ranking)
            chosen.setdefault(target, []).append(best)
            for kind, row in of_fold.items():
                parts.setdefault(kind, []).append(row)
        rows |= {f"{target}|{kind}": pool(each) for kind, each in parts.items()}
        everyone = np.flatnonzero(
            known
        )  # the data's README gives its figures with all other patients as archive
        for kind, table in native.items():
            scores = neighbours.rank(table, everyone, everyone, cohort.cases, ranking)
            rows[f"{target}|{kind}, all others as archive"] = scores
    return rows, {"chosen": chosen}


def _pictured(bench: Bench) -> tuple[str, ...]:
    """The roles of the group images that are neither tables nor texts."""
    others = (*_of(bench, Clinical), *_of(bench, Report))
    return tuple(role for role in bench.images if role not in others)


def _native(cohort: Cohort, bench: Bench) -> dict[str, Features]:
    """Histograms of the intensities as stored, where the cohort has volumes."""
    if not any(asset.type == "volume" for case in cohort.cases for asset in case.assets):
        return {}
    return {
        "native histogram of flair": native_histograms(cohort, bench, ("flair",)),
        "native histograms": native_histograms(cohort, bench, _pictured(bench)),
    }


def _fold(
    cohort: Cohort,
    bench: Bench,
    fold: Split,
    native: Mapping[str, Features],
    known: Bool[np.ndarray, " N"],
    ranking: Ranking,
) -> tuple[str, dict[str, PerPatient]]:
    """The table that is best by this fold's validation cases, and each table's row of its test cases, `best` among them.

    Args:
        cohort: Of the cases.
        bench: Names the roles.
        fold: Whose training patients are the archive.
        native: Tables that depend on no fold.
        known: Which cases have the target's label.
        ranking: Judges by the target.
    """
    training, tables = set(fold.train), dict(native)
    if pictured := _pictured(bench):
        tables |= neighbours.features(cohort, cohort.cases, bench.recipes(pictured), training)
    if tabular := _of(bench, Clinical):
        tables |= numbers(cohort, bench, training, tabular)

    def cases_of(part: str) -> Int[np.ndarray, " P"]:
        patients = set(fold.part(part))
        return np.array([i for i, c in enumerate(cohort.cases) if known[i] and c.patient in patients], int)

    def row(table: Features, part: str) -> PerPatient:
        return neighbours.rank(table, cases_of(part), cases_of("train"), cohort.cases, ranking)

    quality = {kind: float(np.nanmean(row(t, "validation").value.mAP)) for kind, t in tables.items()}
    best = max(quality, key=lambda kind: quality[kind])
    return best, {kind: row(table, "test") for kind, table in {**tables, "best": tables[best]}.items()}
