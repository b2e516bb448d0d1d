"""k-NN on each real cohort: every feature table, and, fold by fold, the one that is best by validation."""

import numpy as np
from jaxtyping import Float
from mmvae_clinical import Clinical
from mmvae_report import Report
from sklearn.decomposition import PCA

from benchmarks import neighbours
from benchmarks.benches import Bench
from mmvae.blocks.geometry import load_nifti
from mmvae.cohort import Cohort
from mmvae.discovery import kind_of
from mmvae.evaluation.evaluate import Ranking, pool
from mmvae.latent.fusion import PoE
from mmvae.metrics.estimates import PerPatient
from mmvae.metrics.relevance import labelled

Features = Float[np.ndarray, "N F"]


def _of(bench: Bench, *kinds: type) -> tuple[str, ...]:
    """The roles of the group images whose recipe is one of these."""
    return tuple(role for role, recipe in bench.recipes(bench.images).items() if isinstance(recipe, kinds))


def native_histograms(cohort: Cohort, bench: Bench, series: tuple[str, ...], bins: int = 16) -> Features:
    """Share of brain voxels in each bin of the intensities as stored (10–255), standardised over the cases; absent is 0."""
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
    """The numbers given with the data, standardised by the training cases, missing at the mean: each role, all, ranks, PCA of all."""
    from mmvae.data import CaseDataset
    from mmvae.modality import TrainingViews

    bare = CaseDataset(cohort, cohort.cases, bench.recipes(roles), ())
    fit = np.array([case.patient in training for case in cohort.cases])
    tables: dict[str, Features] = {}
    for role, recipe in bench.recipes(roles).items():
        views = [bare.view(case, role) for case in cohort.cases]
        known = recipe.fitted(TrainingViews(cohort.card, [v for v, f in zip(views, fit) if f]))
        names = [name for name, categories in zip(known.fields, known.categories) if not categories]
        raw = np.array([[v.record.get(name, np.nan) for name in names] for v in views], float)
        raw = raw[:, ~np.isnan(raw[fit]).all(0)]  # a field that no training case has says nothing
        middle = np.nanmedian(raw[fit], 0)
        filled = np.where(np.isnan(raw), middle, raw)
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
    """Rows `TARGET|TABLE` of test patients pooled over the folds, `TARGET|best`, and what was chosen in each."""
    cases, made, chosen = list(cohort.cases), {}, {}
    tabular, texts = _of(bench, Clinical), _of(bench, Report)
    pictured = tuple(role for role in bench.images if role not in (*tabular, *texts))
    native = {}
    if any(asset.type == "volume" for case in cases for asset in case.assets):
        native = {
            "native histogram of flair": native_histograms(cohort, bench, ("flair",)),
            "native histograms": native_histograms(cohort, bench, pictured),
        }
    for target in bench.targets:
        relevance = ({"gain": 1, "same": [target]},)
        ranking = Ranking(PoE(), "cosine", relevance)
        known = labelled([case.labels for case in cases], relevance)
        parts: dict[str, list[PerPatient]] = {}
        for fold in cohort.splits.folds:
            training = set(fold.train)
            tables = dict(native)
            if pictured:
                tables |= neighbours.features(cohort, cases, bench.recipes(pictured), training)
            if tabular:
                tables |= numbers(cohort, bench, training, tabular)
            rows = {
                name: np.array(
                    [i for i, c in enumerate(cases) if known[i] and c.patient in set(getattr(fold, name))]
                )
                for name in ("train", "validation", "test")
            }
            judged = lambda table, of: neighbours.rank(table, rows[of], rows["train"], cases, ranking)  # noqa: B023, E731
            value = {
                kind: float(np.nanmean(judged(t, "validation").value[:, 3])) for kind, t in tables.items()
            }
            best = max(value, key=value.get)
            chosen.setdefault(target, []).append(best)
            for kind, table in {**tables, "best": tables[best]}.items():
                parts.setdefault(kind, []).append(judged(table, "test"))
        made |= {f"{target}|{kind}": pool(each) for kind, each in parts.items()}
        everyone = np.flatnonzero(
            known
        )  # the data's README gives its figures with every other patient as archive
        for kind, table in native.items():
            made[f"{target}|{kind}, all others as archive"] = neighbours.rank(
                table, everyone, everyone, cases, ranking
            )
    return made, {"chosen": chosen}
