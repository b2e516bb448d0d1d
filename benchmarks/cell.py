"""One cell of a grid: everything that a training depends on, its run by the fit and evaluation that users have, its row."""

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from benchmarks import resolve
from benchmarks.benches import BENCHES, Bench, variant
from benchmarks.setup import Budget, train, versions
from mmvae.case import Asset, Case, Relevance
from mmvae.cohort import Cohort
from mmvae.evaluation.evaluate import evaluate
from mmvae.evaluation.ranking import Ranking, Side
from mmvae.metrics.estimates import PerPatient, plain, summarise
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed
from mmvae.seeds import seed_of

VISIBILITY = {
    # probability that a query role is visible, that an answer role is, subsets per step, probability of being decoded
    "random": {"roles": 0.4, "answers": 0.1, "subsets": 6, "scored": 0.35},
    "classical": {"roles": 1.0, "answers": 1.0, "subsets": 1, "scored": 1.0},
}


@dataclass(frozen=True)
class Cell:
    """cohort × fusion × objective × visibility × missing rate × supervision × seed; the id leaves out what is default.

    Args:
        cohort: Name in `BENCHES`.
        cohort_seed: Of the phantom, or of the folds.
        sizes: Training, validation and test patients of a phantom; empty: the bench set.
        fusion: As in YAML.
        objective: As in YAML.
        visibility: `random` subsets, or `classical`: all present roles are visible.
        missing: Share of the training cases' series that are removed at random.
        incomplete: Training cases that lack a series are `kept` or `discarded`.
        supervision: Row name.
        roles: Query roles; empty: all.
        seed: Of the training.
        epochs: 0: the bench's budget.
        settings: Further `model.*` settings, the outcome of tuning, e.g. {"lr": 0.001}.
    """

    cohort: str = "phantom"
    cohort_seed: int = 1
    sizes: tuple[int, ...] = ()
    fusion: str | Mapping = "PoE"
    objective: str | Mapping = "ELBO"
    visibility: str = "random"
    missing: float = 0.0
    incomplete: str = "kept"
    supervision: str = "report+findings"
    roles: tuple[str, ...] = ()
    seed: int = 1
    epochs: int = 0
    settings: Mapping = field(default_factory=dict)

    @classmethod
    def of(cls, entry: Mapping) -> "Cell":
        """The cell of an entry in a suite's YAML or in a row.

        Raises:
            ValueError: naming what is unknown.
        """
        unknown = set(entry) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"a cell has no {sorted(unknown)}; it has {[f.name for f in fields(cls)]}")
        cell = cls(**{**entry, **{name: tuple(entry.get(name, ())) for name in ("roles", "sizes")}})
        if cell.cohort not in BENCHES:
            raise ValueError(f"cohort {cell.cohort!r}: expected one of {sorted(BENCHES)}")
        if cell.visibility not in VISIBILITY:
            raise ValueError(f"visibility {cell.visibility!r}: expected one of {sorted(VISIBILITY)}")
        if cell.supervision not in cell.bench.supervision:
            raise ValueError(
                f"supervision {cell.supervision!r}: {cell.cohort} has {sorted(cell.bench.supervision)}"
            )
        return cell

    @property
    def bench(self) -> Bench:
        """Its cohort's part of the suite."""
        return BENCHES[self.cohort]

    @property
    def id(self) -> str:
        """Its name as a file: supervision, what is not default, and seed."""
        default, parts = Cell(), [self.supervision]
        if self.cohort != default.cohort or self.cohort_seed != default.cohort_seed:
            parts.insert(0, f"{self.cohort}{self.cohort_seed}")
        parts += ["of " + "+".join(map(str, self.sizes))] if self.sizes else []
        if self.fusion != default.fusion:
            parts.append(resolve.short(self.fusion, "fusion"))
        if self.objective != default.objective:
            parts.append(resolve.short(self.objective, "objective"))
        if self.visibility != default.visibility:
            parts.append(self.visibility)
        if self.missing or self.incomplete != default.incomplete:
            parts.append(f"missing {self.missing:g} {self.incomplete}")
        parts += [*(["+".join(self.roles)] if self.roles else [])]
        parts += [f"{k}={v}" for k, v in sorted(self.settings.items())]
        parts += [f"{self.epochs} epochs"] if self.epochs else []
        name = ",".join(parts).replace("/", "_").replace(" ", "_")
        if len(name) > 120:
            name = name[:100] + hashlib.sha256(name.encode()).hexdigest()[:12]
        return f"{name}-{self.seed}"

    def plain(self) -> dict:
        """All fields as JSON, from which it can be run again."""
        return {**asdict(self), "roles": list(self.roles), "sizes": list(self.sizes)}

    # ---- the run -----------------------------------------------------------------------------------------------------

    def budget(self) -> Budget:
        """The bench's, with its own epochs and learning rate where it names them."""
        given = {"epochs": self.epochs} if self.epochs else {}
        return replace(self.bench.budget, **given, **{k: v for k, v in self.settings.items() if k == "lr"})

    def model(self) -> MMVAE:
        """The model that the cell describes, before any training."""
        bench, visible = self.bench, VISIBILITY[self.visibility]
        answers, roles = bench.supervision[self.supervision], self.roles or bench.roles
        images = [role for role in roles if role in bench.images]
        budget = self.budget()
        return MMVAE(
            bench.recipes((*roles, *answers)),
            latent_dim=budget.latent_dim,
            fusion=resolve.fusion(self.fusion),
            objective=resolve.objective(self.objective),
            answer_roles=list(answers),
            weights={role: bench.weights[role] for role in (*roles, *answers) if role in bench.weights},
            visible={**dict.fromkeys(roles, visible["roles"]), **dict.fromkeys(answers, visible["answers"])},
            subsets=visible["subsets"],
            scored=visible["scored"],
            groups={"images": images} if images else {},
            **{"weight_decay": bench.weight_decay, "lr": budget.lr, "seed": self.seed, **self.settings},
        )

    def train(self, work: Path) -> tuple[Cohort, list[MMVAE], int]:
        """The cohort it is judged on, its models (one, or one per fold), and how many training cases they had in all."""
        bench = self.bench
        path = bench.cohort(work, self.cohort_seed, self.sizes)
        source = path
        if self.missing or self.incomplete == "discarded":
            source = thinned(path, self.missing, self.incomplete, work)
        models = [
            train(
                self.model(), str(source), self.seed, self.budget(),
                work / "runs" / f"{self.id}{'' if fold is None else f'-fold{fold}'}", bench.motion, fold,
            )
            for fold in (range(bench.folds) if bench.folds else (None,))
        ]  # fmt: skip
        cohort = Cohort.load(path)
        count = sum(len(fold.train) for fold in Cohort.load(source).splits.folds)
        if source != path:
            # Trained on the thinned copy's splits, judged on the whole cohort's same test patients.
            for model in models:
                model.data_identity["splits"] = cohort.splits.sha256
        return cohort, models, count

    def run(self, work: Path) -> tuple[dict[str, PerPatient], dict]:
        """Scores per patient by KEY of metrics.json, after `TARGET|` where the bench has several targets, and the row's other fields."""
        start = time.time()
        cohort, models, count = self.train(work)
        seconds, rows, macro = time.time() - start, {}, {}
        for target in self.bench.targets or (None,):
            evaluated = evaluate(models, cohort, target)
            table = evaluated.rows
            prefix = f"{target}|" if len(self.bench.targets) > 1 else ""
            rows |= {prefix + key: row for key, row in table.items()}
            averaged = evaluated.metrics().items()
            macro |= {prefix + key: plain(m) for key, m in averaged if key.startswith("macro/")}
            if len(models[0].query_roles) == 1:
                rows[f"{prefix}group/images"] = table[models[0].query_roles[0]]
        measured = {} if self.bench.judge is None else {"measured": self.bench.judge(models[0], cohort)}
        samples = count * self.budget().epochs
        return rows, {
            "cell": self.plain(),
            "config": {
                **models[0].config(),
                "budget": asdict(self.budget()),
                "motion": asdict(self.bench.motion),
            },
            "seed": self.seed,
            "versions": versions(),
            "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
            "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
            "training_seconds": round(seconds, 1),
            "samples_per_second": round(samples / seconds, 2),
            "splits": cohort.splits.sha256,
            "phantom": cohort.card.phantom,
            "supervision": self.supervision,
            "weights": models[0].weight_of,
            "distance": [model.space.distance for model in models],
            "readout": [
                space.readout and space.readout.exponent for space in (model.space for model in models)
            ],
            "macro": macro,
            **measured,
            "validation_mAP": validation(models, cohort, self.bench),
        }


def validation(models: list[MMVAE], cohort: Cohort, bench: Bench) -> float:
    """mAP of the group images among validation patients (folds: against the training cases), averaged over folds and targets."""
    values = []
    for target in bench.targets or (None,):
        relevance = cohort.card.relevance if target is None else (Relevance(1, (target,)),)
        for model in models:
            sides = {}
            for name in ("validation", "train") if bench.folds else ("validation",):
                cases = cohort.split(name, model.data_identity.get("fold"))
                sides[name] = Side.of(cases, embed(model, cohort, cases), relevance)
            query, archive = sides["validation"], sides["train" if bench.folds else "validation"]
            ranking = Ranking(model.space, relevance)
            using = [role for role in model.roles if role in bench.images]
            rows = np.flatnonzero(query.experts.having(using).any(1))
            distance, usable = ranking.table(query, archive, rows, using, "matched")
            value, _ = ranking.judge(distance, usable, [query.cases[i] for i in rows], archive.cases)
            values.append(float(np.nanmean(value.mAP)))
    return float(np.mean(values))


def thinned(path: Path, missing: float, incomplete: str, work: Path) -> Path:
    """A copy of the cohort whose training cases lack series at random.

    Args:
        path: The whole cohort.
        missing: Probability that a training case lacks a series; one series always stays.
        incomplete: `kept`, or `discarded`: only cases with every series train.
        work: Folder that the copy is written into, unless it is there.
    """
    out = work / f"{path.name}-missing-{missing:g}-{incomplete}"
    if out.exists():
        return out
    cohort = Cohort.load(path)
    single = cohort.splits.fold(None)
    series = lambda case: {name for name in map(series_of, case.assets) if name}  # noqa: E731
    every = set().union(*map(series, cohort.cases))
    cases = [_without(c, missing) if c.patient in set(single.train) else c for c in cohort.cases]
    whole = {case.patient for case in cases if series(case) == every}
    kept = single.train if incomplete == "kept" else tuple(p for p in single.train if p in whole)
    return variant(path, out, cases, replace(cohort.splits, folds=(replace(single, train=kept),)))


def series_of(asset: Asset) -> str | None:
    """Names the series that a volume is: its kind, and whether fat is suppressed; None for what is no volume."""
    return f"{asset.kind} {asset.facts.get('fat_saturated')}" if asset.type == "volume" else None


def _without(case: Case, missing: float) -> Case:
    """The case without series drawn at random, by a generator of its own; one series always stays."""
    rng = np.random.default_rng(seed_of("missing", case.case_id))
    series = sorted({a for a in map(series_of, case.assets) if a})
    drawn = dict(zip(series, rng.random(len(series))))
    removed = {name for name, u in drawn.items() if u < missing}
    if series and removed == set(series):
        removed.discard(max(drawn, key=lambda name: drawn[name]))
    return replace(case, assets=tuple(a for a in case.assets if series_of(a) not in removed))


def row_of(rows: Mapping[str, PerPatient], extra: Mapping) -> dict:
    """The JSONL row: all but the per-patient values, with the intervals of `full`, the groups and the subsets of the images."""
    images = set(BENCHES[extra["cell"]["cohort"]].images)
    listed = lambda key: "group/" in key or key == "full" or set(key.split("+")) <= images  # noqa: E731
    kept = {key: row for key, row in rows.items() if "training/" not in key and listed(key.split("|")[-1])}
    metrics = {key: plain(summarise(row)) for key, row in kept.items()}
    averaged = {key: m for key, m in extra.get("macro", {}).items() if "group/" in key}
    return {**{k: v for k, v in extra.items() if k != "macro"}, "metrics": {**metrics, **averaged}}
