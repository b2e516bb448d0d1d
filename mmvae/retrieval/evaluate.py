"""Checkpoints + cohort → every number of EVALUATION.md: all subsets, matched, joint and late, with intervals and chance."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float

from mmvae.case import Case, Cohort, InputError, Split
from mmvae.latent.fusion import Fusion, PoE
from mmvae.latent.gaussian import DISTANCES
from mmvae.model import MMVAE
from mmvae.retrieval.embed import Experts, embed
from mmvae.retrieval.metrics import (
    METRICS,
    PerPatient,
    by_patient,
    counts_as_relevant,
    gains,
    labelled,
    paired,
    score,
    summarise,
)

UNSEEN_FROM = 90  # test patients from which the other test patients are the headline's archive
RRF = 60  # constant of reciprocal rank fusion (Cormack, Clarke & Büttcher 2009)


@dataclass(frozen=True)
class Side:
    """Queries or an archive: labelled cases and their experts, one model's or several single-role models' side by side."""

    cases: tuple[Case, ...]
    experts: Experts

    @classmethod
    def of(cls, cases: Sequence[Case], experts: Experts, relevance: Sequence[Mapping]) -> "Side":
        """The labelled ones: cases without a label of the highest gain are on neither side."""
        keep = np.flatnonzero(labelled([case.labels for case in cases], relevance))
        return cls(tuple(cases[i] for i in keep), experts.rows(keep))


@dataclass(frozen=True)
class Ranking:
    """How one model ranks: its fusion, its distance, and the relevance that judges it."""

    fusion: Fusion
    distance: str
    relevance: tuple[Mapping, ...]

    def judge(
        self,
        distance: Float[np.ndarray, "Q N"],
        usable: Bool[np.ndarray, "Q N"],
        queries: Sequence[Case],
        archive: Sequence[Case],
    ):
        """Values and chance (Q, F) of a distance table; a query's own patient is never a neighbour."""
        gain = gains([case.labels for case in queries], [case.labels for case in archive], self.relevance)
        other = (
            np.array([case.patient for case in queries])[:, None]
            != np.array([case.patient for case in archive])[None]
        )
        return score(distance, gain, other & usable, counts_as_relevant(self.relevance))

    def table(
        self, query: Side, archive: Side, rows: np.ndarray, using: Iterable[str], side: str
    ) -> tuple[Float[np.ndarray, "Q N"], Bool[np.ndarray, "Q N"]]:
        """Distances of the queries `rows`, each with what it has of `using`, and which archive cases take part.

        `side` forms the archive: `matched` from the roles that this query has, `joint` from all query roles,
        `with_answers` from all roles. An archive case with none of them takes no part.
        """
        had = query.experts.having(using)[rows]
        distance = np.full((len(rows), len(archive.cases)), np.inf, np.float32)
        usable = np.zeros(distance.shape, bool)
        for pattern in np.unique(had, axis=0):
            if not pattern.any():
                continue
            mine = np.flatnonzero((had == pattern).all(1))
            roles = [role for role, here in zip(query.experts.roles, pattern) if here]
            formed = {
                "matched": roles,
                "joint": archive.experts.query_roles,
                "with_answers": archive.experts.roles,
            }[side]
            has = archive.experts.having(formed)
            z = query.experts.rows(rows[mine]).means(self.fusion, had[mine])
            a = archive.experts.means(self.fusion, has)
            distance[mine] = DISTANCES[self.distance](torch.from_numpy(z), torch.from_numpy(a)).numpy()
            usable[mine] = has.any(1)
        return distance, usable

    def late(
        self, query: Side, archive: Side, rows: np.ndarray, using: Iterable[str], rule: str
    ) -> tuple[Float[np.ndarray, "Q N"], Bool[np.ndarray, "Q N"]]:
        """The same by late fusion of single roles: `zscore` sums standardised similarities, `rrf` reciprocal ranks.

        A role that query or archive case lacks adds nothing; sums are divided by the number of shared roles.
        """
        total = np.zeros((len(rows), len(archive.cases)))
        shared = np.zeros_like(total)
        for role in using:
            distance, usable = self.table(query, archive, rows, [role], "matched")
            known = usable & np.isfinite(distance)
            if rule == "zscore":
                masked = np.where(known, distance, np.nan)
                has = known.any(1)
                mean, std = np.zeros(len(rows)), np.ones(len(rows))
                mean[has], std[has] = np.nanmean(masked[has], 1), np.nanstd(masked[has], 1) + 1e-9
                part = -(distance - mean[:, None]) / std[:, None]
            else:
                part = 1 / (RRF + 1 + np.argsort(np.argsort(distance, 1, kind="stable"), 1, kind="stable"))
            total += np.where(known, part, 0)
            shared += known
        return -total / np.maximum(shared, 1), shared > 0


def subsets_of(roles: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset, each sorted, by size."""
    return [tuple(sorted(s)) for size in range(1, len(roles) + 1) for s in combinations(sorted(roles), size)]


def key_of(subset: Iterable[str]) -> str:
    """Sorted role names joined by +."""
    return "+".join(sorted(subset))


def _experts(models: Sequence[MMVAE], cohort: Cohort, cases: Sequence[Case], cache: Path | None) -> Experts:
    """One model's experts, or those of several single-role models side by side (the later one's answers are dropped)."""
    parts = [embed(model, cohort, cases, cache=cache) for model in models]
    if len(parts) == 1:
        return parts[0]
    names = [role for part in parts for role in part.query_roles]
    if len(set(names)) != len(names):
        raise InputError(
            f"the checkpoints share the roles {sorted({n for n in names if names.count(n) > 1})}; for late fusion give one a role"
        )
    # Each model's own point, as the expert of its role; a space of fewer dimensions is filled up with zeros.
    points = [part.means(model.rule, part.having(part.query_roles)) for model, part in zip(models, parts)]
    widest = max(point.shape[1] for point in points)
    mean = np.stack([np.pad(point, ((0, 0), (0, widest - point.shape[1]))) for point in points], 1)
    present = np.stack([part.having(part.query_roles).any(1) for part in parts], 1)
    return Experts(tuple(names), (), parts[0].case_ids, mean, np.zeros_like(mean), present)


def choose_late_rule(ranking: Ranking, validation: Side, using: Sequence[str]) -> str:
    """`zscore` or `rrf`, whichever has the higher mAP among validation cases."""
    rows, best = np.arange(len(validation.cases)), {}
    for rule in ("zscore", "rrf"):
        distance, usable = ranking.late(validation, validation, rows, using, rule)
        value, _ = ranking.judge(distance, usable, validation.cases, validation.cases)
        best[rule] = np.nanmean(value[:, 3]) if not np.isnan(value[:, 3]).all() else 0.0
    return max(best, key=best.get)


@dataclass(frozen=True)
class Table:
    """Per-patient values by KEY of metrics.json, and what produced them."""

    rows: Mapping[str, PerPatient]
    classes: Mapping[str, str]
    protocol: Mapping

    def metrics(self) -> dict:
        """metrics.json without fingerprint: intervals, paired differences, per class and macro."""
        made = {key: summarise(row.value, row.chance) for key, row in self.rows.items()}
        singles = [key for key in self.rows if "/" not in key and "+" not in key and key != "full"]
        heads = ["full", *[key for key in self.rows if key.startswith("group/")]]
        for head in heads:
            for single in singles:
                made[f"paired/{head}-{single}"] = paired(self.rows[head], self.rows[single])
            if f"late/{head}" in self.rows:
                made[f"paired/{head}-late/{head}"] = paired(self.rows[head], self.rows[f"late/{head}"])
        for key in (*heads, *singles):
            row = self.rows[key]
            names = np.array([self.classes.get(p, "") for p in row.patients])
            present = sorted(set(names) - {""})
            for name in present:
                made[f"class/{name}/{key}"] = summarise(row.value[names == name], row.chance[names == name])
            known = np.isin(names, present)
            share = (
                np.array([1 / (names == n).sum() for n in names[known]])[:, None]
                * known.sum()
                / max(len(present), 1)
            )
            made[f"macro/{key}"] = summarise(row.value[known] * share, row.chance[known] * share)
        return made


def evaluate_fold(
    models: Sequence[MMVAE],
    cohort: Cohort,
    split: Split,
    headline: str,
    relevance: Sequence[Mapping],
    cache: Path | None = None,
) -> dict[str, PerPatient]:
    """Every row of one fold, by patient. Several models must have one query role each."""
    sides = {}
    for name in ("train", "validation", "test"):
        patients = set(getattr(split, name))
        cases = [case for case in cohort.cases if case.patient in patients]
        if not cases and name == "test":
            raise InputError("the test split holds no case; evaluation needs some")
        if cases:
            sides[name] = Side.of(cases, _experts(models, cohort, cases, cache), relevance)
    query = sides["test"]
    if not query.cases:
        raise InputError(
            f"no test case has the labels {[level['same'] for level in relevance]}; nothing to evaluate"
        )
    rule = models[0].rule if len(models) == 1 else PoE(prior_expert=False)  # several are points already
    ranking = Ranking(rule, models[0].distance, tuple(relevance))
    several, roles = len(models) > 1, query.experts.query_roles
    archives = {"unseen": query}
    if "train" in sides and sides["train"].cases:
        archives["training"] = sides["train"]
    if headline not in archives:
        raise InputError(f"the {headline} archive holds no labelled case")
    groups = {f"group/{name}": members for name, members in models[0].groups.items()} if not several else {}
    rows: dict[str, PerPatient] = {}

    def add(key: str, archive: Side, which: np.ndarray, rank: Callable):
        if not len(which):
            return
        distance, usable = rank(archive, which)
        cases = [query.cases[i] for i in which]
        value, chance = ranking.judge(distance, usable, cases, archive.cases)
        rows[key] = by_patient([case.patient for case in cases], value, chance)

    everyone = lambda using: np.flatnonzero(query.experts.having(using).any(1))  # noqa: E731
    late = (
        choose_late_rule(ranking, sides["validation"], roles)
        if "validation" in sides and len(sides["validation"].cases) > 1
        else "rrf"
    )
    for where, archive in archives.items():
        prefix = "" if where == headline else f"{where}/"
        named = {"full": roles, **groups}
        if several:
            for name, using in named.items():
                add(
                    f"{prefix}late/{name}",
                    archive,
                    everyone(using),
                    lambda a, w, u=using: ranking.late(query, a, w, u, late),
                )
            for role in roles:
                add(
                    f"{prefix}{role}",
                    archive,
                    everyone([role]),
                    lambda a, w, u=role: ranking.table(query, a, w, [u], "matched"),
                )
            continue
        for subset in subsets_of(roles):
            which = np.flatnonzero(query.experts.having(subset).sum(1) == len(subset))
            add(
                f"{prefix}{key_of(subset)}",
                archive,
                which,
                lambda a, w, u=subset: ranking.table(query, a, w, u, "matched"),
            )
        for name, using in named.items():
            which = everyone(using)
            add(
                f"{prefix}{name}",
                archive,
                which,
                lambda a, w, u=using: ranking.table(query, a, w, u, "matched"),
            )
            if where == headline:
                for side in ("joint", "with_answers"):
                    add(
                        f"{side}/{name}",
                        archive,
                        which,
                        lambda a, w, u=using, s=side: ranking.table(query, a, w, u, s),
                    )
                add(f"late/{name}", archive, which, lambda a, w, u=using: ranking.late(query, a, w, u, late))
    return rows


def evaluate(
    models: Sequence[MMVAE], cohort: Cohort, relevance_target: str | None = None, cache: Path | None = None
) -> Table:
    """The table of one checkpoint, of one a fold (test patients pooled), or of one a role (late fusion of separate models)."""
    if cohort.splits is None:
        raise InputError("the cohort has no splits.json; evaluation needs test cases")
    relevance = tuple(cohort.card.relevance)
    if relevance_target is not None:
        if relevance_target not in cohort.card.targets:
            raise InputError(
                f"--relevance {relevance_target!r} is no target; card.json lists {list(cohort.card.targets)}"
            )
        relevance = ({"gain": 1, "same": [relevance_target]},)
    if not relevance:
        raise InputError("card.json lists no relevance; give --relevance TARGET or write it into the MAP")
    folds = [model.data_identity.get("fold") for model in models]
    for model in models:
        trained_on = model.data_identity.get("splits")
        if trained_on is not None and trained_on != cohort.splits.sha256:
            raise InputError(
                "a checkpoint was trained on other splits than this cohort's splits.json; its test patients may have been trained "
                "on. Evaluate it on the cohort that it was trained on."
            )
    by_fold = {fold: [m for m, f in zip(models, folds) if f == fold] for fold in dict.fromkeys(folds)}
    single = cohort.splits.single
    test_patients = len(cohort.splits.folds[0].test)
    headline = "unseen" if single and test_patients >= UNSEEN_FROM else "training"
    pooled: dict[str, list[PerPatient]] = {}
    for fold, mine in by_fold.items():
        for key, row in evaluate_fold(
            mine, cohort, cohort.splits.fold(fold), headline, relevance, cache
        ).items():
            pooled.setdefault(key, []).append(row)
    rows = {key: pool(parts) for key, parts in pooled.items()}
    counted = [level for level in relevance if level["gain"] >= counts_as_relevant(relevance)]
    target = min(counted, key=lambda level: level["gain"])["same"]
    classes = {
        case.patient: str(case.labels[target[0]])
        for case in cohort.cases
        if len(target) == 1 and target[0] in case.labels
    }
    protocol = {
        "archive": headline,
        "queries": "test",
        "folds": None if single else len(by_fold),
        "splits": cohort.splits.sha256,
        "relevance": list(relevance),
        "bootstrap": {"draws": 2000, "unit": "patient", "interval": 0.95},
        "distance": [model.distance for model in models],
        "supervision": sorted({s for m in models for r, s in m.supervision.items() if s != "none"})
        or ["none"],
        "weights": {role: weight for model in models for role, weight in model.weight_of.items()},
        "phantom": cohort.card.phantom,
        "metrics": list(METRICS),
    }
    return Table(rows, classes, protocol)


def pool(parts: Sequence[PerPatient]) -> PerPatient:
    """Folds side by side: a patient is a test patient once."""
    order = sorted(
        (patient, part, row) for part, one in enumerate(parts) for row, patient in enumerate(one.patients)
    )
    value = np.stack([parts[part].value[row] for _, part, row in order])
    chance = np.stack([parts[part].chance[row] for _, part, row in order])
    return PerPatient(tuple(patient for patient, _, _ in order), value, chance)


def average(seeds: Sequence[PerPatient]) -> PerPatient:
    """A patient's value averaged over seeds; all rank the same patients."""
    if any(one.patients != seeds[0].patients for one in seeds):
        raise InputError("the seeds ranked different patients; they must share splits")
    return PerPatient(
        seeds[0].patients, np.mean([one.value for one in seeds], 0), np.mean([one.chance for one in seeds], 0)
    )
