"""The headline table on the phantom's bench set: one command, resumable, every row in EVALUATION.md's terms.

python -m benchmarks.headline --seed 1 --work runs/headline            # makes the cohort, trains, writes the table
python -m benchmarks.headline --seed 2 --work runs/headline2           # the same on a phantom of another seed
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks import ceiling, neighbours
from benchmarks.setup import IMAGES, MOTION, SUPERVISION, Budget, modalities, model, train, versions
from mmvae.case import Cohort
from mmvae.phantom.cohort import write_phantom_cohort
from mmvae.retrieval.embed import embed
from mmvae.retrieval.evaluate import Ranking, Side, average, evaluate_fold
from mmvae.retrieval.metrics import PerPatient, paired, summarise

ROLES = (*IMAGES, "clinical")
GROUP = "group/images"


def save(path: Path, rows: dict[str, PerPatient], extra: dict) -> None:
    """Per-patient rows of one unit, by rename, so that a kill costs one unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {
        key: {"patients": list(r.patients), "value": r.value.tolist(), "chance": r.chance.tolist()}
        for key, r in rows.items()
    }
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps({"rows": plain, **extra}))
    os.replace(beside, path)


def load(path: Path) -> tuple[dict[str, PerPatient], dict]:
    """What `save` wrote."""
    kept = json.loads(path.read_text())
    rows = {
        k: PerPatient(tuple(r["patients"]), np.array(r["value"], float), np.array(r["chance"], float))
        for k, r in kept.pop("rows").items()
    }
    return rows, kept


class Bench:
    """The units of the table: each is a file; what exists is not made again."""

    def __init__(self, seed: int, work: Path, seeds: int, budget: Budget, sizes: tuple[int, int, int]):
        self.work, self.seeds, self.budget = work, seeds, budget
        path = work / "cohort"
        if not path.exists():
            write_phantom_cohort(sum(sizes), seed, path, sizes, jobs=os.cpu_count() or 1)
        self.path, self.cohort = str(path), Cohort.load(path)
        self.split = self.cohort.splits.fold(None)
        self.relevance = tuple(self.cohort.card.relevance)

    def unit(self, name: str, make: Callable[[], tuple[dict[str, PerPatient], dict]]) -> None:
        """Makes one unit unless it exists."""
        path = self.work / "units" / f"{name}.json"
        if path.exists():
            return
        start = time.time()
        rows, extra = make()
        save(path, rows, {**extra, "seconds": round(time.time() - start, 1)})
        print(
            f"{name}: {time.time() - start:.0f} s, images mAP {summarise(*_two(rows, GROUP))['mAP']['value']}",
            flush=True,
        )

    def ours(self, supervision: str, seed: int, roles: tuple[str, ...] = ROLES):
        """One training of ours and all its rows."""
        name = f"{supervision}-{seed}-{'+'.join(roles)}".replace("/", "_")
        made = train(
            model(roles, SUPERVISION[supervision], seed, self.budget),
            self.path,
            seed,
            self.budget,
            self.work / "runs" / name,
        )
        rows = evaluate_fold([made], self.cohort, self.split, "unseen", self.relevance)
        if len(roles) == 1:
            rows[GROUP] = rows[roles[0]]
        return rows, {
            "config": {**made.config(), "budget": asdict(self.budget), "motion": asdict(MOTION)},
            "weights": made.weight_of,
            "distance": made.distance,
            "validation_mAP": self._validation(made),
        }

    def _validation(self, made) -> float:
        side = self._side(made, "validation")
        ranking = Ranking(made.fusion, made.distance, self.relevance)
        using = [role for role in made.roles if role in IMAGES]
        rows = np.flatnonzero(side.experts.having(using).any(1))
        distance, usable = ranking.table(side, side, rows, using, "matched")
        value, _ = ranking.judge(distance, usable, [side.cases[i] for i in rows], side.cases)
        return float(np.nanmean(value[:, 3]))

    def _side(self, made, split: str) -> Side:
        cases = self.cohort.split(split)
        return Side.of(cases, embed(made, self.cohort, cases), self.relevance)

    def late_of_separate(self, seed: int):
        """Late fusion of models of one role each, from their checkpoints."""
        from mmvae.model import MMVAE

        models = [
            MMVAE.load_from_checkpoint(self.work / "runs" / f"report+findings-{seed}-{role}" / "best.ckpt")
            for role in IMAGES
        ]
        rows = evaluate_fold(models, self.cohort, self.split, "unseen", self.relevance)
        return {GROUP: rows["late/full"]}, {}

    def ceiling(self, number: int, seed: int | None = None):
        """One of the trainings that compete for the ceiling, in the space that is best by validation."""
        from dataclasses import replace

        training = ceiling.GRID[number] if seed is None else replace(ceiling.GRID[number], seed=seed)
        made = ceiling.train(model(ROLES, (), training.seed, self.budget), self.cohort, training)
        ranking = Ranking(made.model.fusion, "cosine", self.relevance)
        validation, test = self._side(made.model, "validation"), self._side(made.model, "test")
        by_space = {s: ceiling.rank(made, ranking, validation, validation, IMAGES, s) for s in ceiling.SPACES}
        best = max(by_space, key=lambda s: np.nanmean(by_space[s].value[:, 3]))
        rows = {GROUP: ceiling.rank(made, ranking, test, test, IMAGES, best)}
        rows["known labels"] = ceiling.rank(made, ranking, test, test, IMAGES, best, known=True)
        for role in IMAGES:
            rows[role] = ceiling.rank(made, ranking, test, test, (role,), best)
        values = {s: float(np.nanmean(r.value[:, 3])) for s, r in by_space.items()}
        return rows, {
            "training": asdict(training),
            "space": best,
            "validation": values,
            "validation_mAP": values[best],
        }

    def knn(self):
        """The k-NN baseline that is best by validation, and the record alone."""
        cases = list(self.cohort.cases)
        train_patients, at = (
            set(self.split.train),
            {n: set(getattr(self.split, n)) for n in ("validation", "test")},
        )
        rows_of = {n: np.array([i for i, c in enumerate(cases) if c.patient in p]) for n, p in at.items()}
        ranking = Ranking(model(ROLES, (), 1, self.budget).fusion, "cosine", self.relevance)
        tables = neighbours.features(self.cohort, cases, modalities(IMAGES), train_patients)
        value = {
            k: float(
                np.nanmean(
                    neighbours.rank(t, rows_of["validation"], rows_of["validation"], cases, ranking).value[
                        :, 3
                    ]
                )
            )
            for k, t in tables.items()
        }
        best = max(value, key=value.get)
        made = {
            f"k-NN {k}": neighbours.rank(t, rows_of["test"], rows_of["test"], cases, ranking)
            for k, t in tables.items()
        }
        made["record alone"] = self._record(cases, rows_of["test"], train_patients, ranking)
        return {GROUP: made[f"k-NN {best}"], **made}, {"validation": value, "best": best}

    def _record(self, cases, rows, training, ranking) -> PerPatient:
        from mmvae_clinical import Clinical

        from mmvae.data import CaseDataset
        from mmvae.modality import TrainingViews

        bare = CaseDataset(self.cohort, cases, {"clinical": Clinical()}, ())
        views = [bare.view(case, "clinical") for case in cases if case.patient in training]
        fitted = Clinical().fitted(TrainingViews(self.cohort.card, views))
        data = CaseDataset(self.cohort, cases, {"clinical": fitted}, ())
        table = np.stack(
            [(data.observe(i, "clinical") or fitted.blank()).clean().value.numpy() for i in range(len(data))]
        )
        return neighbours.rank(table, rows, rows, cases, ranking)

    def run(self, only: str | None, part: tuple[int, int] = (1, 1)) -> None:
        """All units, what the ruler needs first; part k of n makes every n-th, so that n processes share the work."""
        units: list[tuple[str, Callable]] = [("knn", self.knn)]
        units += [(f"ceiling-{n}", lambda n=n: self.ceiling(n)) for n in range(len(ceiling.GRID))]
        for seed in range(1, self.seeds + 1):
            for name in ("report+findings", "none", "labels", "findings", "report"):
                units.append((f"{name}-{seed}", lambda n=name, s=seed: self.ours(n, s)))
            for role in IMAGES:
                units.append(
                    (f"single-{role}-{seed}", lambda r=role, s=seed: self.ours("report+findings", s, (r,)))
                )
        number, of = part
        todo = units[number - 1 :: of]
        if of == 1:  # late fusion of separate models waits for them, so it is not shared out
            todo += [(f"late-{s}", lambda s=s: self.late_of_separate(s)) for s in range(1, self.seeds + 1)]
        for name, make in todo:
            if only is None or name.startswith(only):
                self.unit(name, make)


def _two(rows, key):
    row = rows.get(key) or next(iter(rows.values()))
    return row.value, row.chance


def table(work: Path) -> list[dict]:
    """The rows of the headline table from the units made so far: seeds averaged by patient, paired with the default."""
    units = {path.stem: load(path) for path in sorted((work / "units").glob("*.json"))}
    cohort = Cohort.load(work / "cohort")
    made: dict[str, tuple[PerPatient, dict]] = {}

    def put(name: str, parts: list[PerPatient], **extra):
        if parts:
            means = [float(np.nanmean(p.value[:, 3])) for p in parts]
            made[name] = (average(parts), {"seeds": len(parts), "by_seed_mAP": means, **extra})

    seeds = lambda name: [s for s in range(1, 10) if f"{name}-{s}" in units]  # noqa: E731
    for name in SUPERVISION:
        parts = [units[f"{name}-{s}"] for s in seeds(name)]
        extra = (
            {
                "validation_mAP": [e["validation_mAP"] for _, e in parts],
                "config": parts[0][1]["config"],
                "weights": parts[0][1]["weights"],
            }
            if parts
            else {}
        )
        put(f"ours, {name}", [rows[GROUP] for rows, _ in parts], supervision=name, **extra)
        if name == "report+findings":
            for key, label in (
                ("joint/" + GROUP, "archive joint"),
                ("with_answers/" + GROUP, "archive that knows its reports and terms"),
            ):
                put(f"ours, {name}, {label}", [rows[key] for rows, _ in parts], supervision=name)
            put(
                "late fusion of this model's experts",
                [rows["late/" + GROUP] for rows, _ in parts],
                supervision=name,
            )
            for role in IMAGES:
                put(f"{role} alone, this model", [rows[role] for rows, _ in parts], supervision=name)
    for role in IMAGES:
        put(
            f"{role} alone, own model",
            [units[f"single-{role}-{s}"][0][GROUP] for s in seeds(f"single-{role}")],
            supervision="report+findings",
        )
    put(
        "late fusion of separate models",
        [units[f"late-{s}"][0][GROUP] for s in seeds("late")],
        supervision="report+findings",
    )
    if "knn" in units:
        rows, extra = units["knn"]
        put(f"k-NN ({extra['best']})", [rows[GROUP]], supervision="none", validation=extra["validation"])
        put("record alone, k-NN", [rows["record alone"]], supervision="none")
    trained = {name: u for name, u in units.items() if name.startswith("ceiling-")}
    if trained:
        best = max(trained, key=lambda n: trained[n][1]["validation_mAP"])
        rows, extra = trained[best]
        tried = {n: {**u[1]["training"], "validation": u[1]["validation"]} for n, u in trained.items()}
        put(
            "supervised ceiling",
            [rows[GROUP]],
            supervision="labels",
            config={**extra["training"], "space": extra["space"]},
            tried=tried,
        )
        put("supervised ceiling against known labels", [rows["known labels"]], supervision="labels")
    default = made.get("ours, report+findings")
    out = []
    for name, (row, extra) in made.items():
        line = {"row": name, "metrics": {GROUP: summarise(row.value, row.chance)}, **extra}
        if default is not None and name != "ours, report+findings":
            line["metrics"][f"paired/default-{name}"] = paired(default[0], row)
        line |= {
            "seed": 1,
            "versions": versions(),
            "hardware": platform.machine() + f", {os.cpu_count()} cores",
        }
        line |= {
            "splits": cohort.splits.sha256,
            "phantom": cohort.card.phantom,
            "config": extra.get("config", {}),
            "weights": extra.get("weights", {}),
        }
        out.append(line)
    return out


def markdown(lines: list[dict]) -> str:
    """The table for people."""
    chance = lines[0]["metrics"][GROUP]["mAP"]["chance"]
    out = [
        "| row | seeds | mAP (95 %) | P@5 (95 %) | default minus row, mAP |",
        "| --- | --- | --- | --- | --- |",
    ]
    out.append(f"| chance | | {chance:.3f} | {lines[0]['metrics'][GROUP]['P@5']['chance']:.3f} | |")
    span = lambda m: f"{m['value']:.3f} ({m['low']:.3f}–{m['high']:.3f})"  # noqa: E731
    for line in sorted(lines, key=lambda x: x["metrics"][GROUP]["mAP"]["value"]):
        difference = next((m["mAP"] for key, m in line["metrics"].items() if key.startswith("paired/")), None)
        metrics = line["metrics"][GROUP]
        out.append(
            f"| {line['row']} | {line['seeds']} | {span(metrics['mAP'])} | {span(metrics['P@5'])} | {span(difference) if difference else ''} |"
        )
    return "\n".join(out) + "\n"


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the phantom")
    parser.add_argument(
        "--work", type=Path, required=True, help="cohort, runs and units; what exists is kept"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings a row")
    parser.add_argument("--epochs", type=int, default=Budget.epochs)
    parser.add_argument("--sizes", default="600,200,400", help="training, validation and test patients")
    parser.add_argument("--only", help="units whose name begins so")
    parser.add_argument(
        "--part",
        default="1/1",
        help="k/n: every n-th unit, for n processes side by side; then run once without",
    )
    parser.add_argument("--results", type=Path, help="JSONL and Markdown of the table are written here")
    arguments = parser.parse_args()
    sizes = tuple(int(n) for n in arguments.sizes.split(","))
    bench = Bench(arguments.seed, arguments.work, arguments.seeds, Budget(epochs=arguments.epochs), sizes)
    if arguments.only != "table":
        number, of = (int(n) for n in arguments.part.split("/"))
        bench.run(arguments.only, (number, of))
        if of > 1:
            return
    lines = table(arguments.work)
    print(markdown(lines))
    if arguments.results:
        arguments.results.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        arguments.results.with_suffix(".md").write_text(markdown(lines))


if __name__ == "__main__":
    main()
