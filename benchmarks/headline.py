"""The headline table on the phantom's bench set: one command, resumable, every row in EVALUATION.md's terms.

python -m benchmarks.headline --seed 1 --work runs/headline            # makes the cohort, trains, writes the table
python -m benchmarks.headline --seed 2 --work runs/headline2           # the same on a phantom of another seed
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import ceiling, neighbours
from benchmarks.setup import IMAGES, MOTION, PAIR, SUPERVISION, Budget, modalities, model, train
from benchmarks.table import markdown, table
from benchmarks.units import GROUP, save
from mmvae.case import Cohort
from mmvae.phantom.cohort import write_phantom_cohort
from mmvae.retrieval.embed import embed
from mmvae.retrieval.evaluate import Ranking, Side, evaluate_fold, key_of
from mmvae.retrieval.metrics import PerPatient, summarise

ROLES = (*IMAGES, "clinical")


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
            f"{name}: {time.time() - start:.0f} s, images mAP {summarise(rows[GROUP].value, rows[GROUP].chance)['mAP']['value']}",
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

    def ceiling(self, training: ceiling.Training):
        """One of the trainings that compete for the ceiling, in the space that is best by validation."""
        using = training.using or IMAGES
        made = ceiling.train(model(ROLES, (), training.seed, self.budget), self.cohort, training)
        ranking = Ranking(made.model.fusion, "cosine", self.relevance)
        validation, test = self._side(made.model, "validation"), self._side(made.model, "test")
        by_space = {s: ceiling.rank(made, ranking, validation, validation, using, s) for s in ceiling.SPACES}
        values = {s: float(np.nanmean(r.value[:, 3])) for s, r in by_space.items()}
        best = max(values, key=values.get)
        rows = {key_of(using): ceiling.rank(made, ranking, test, test, using, best)}
        if training.using is None:
            for role in using:
                rows[role] = ceiling.rank(made, ranking, test, test, (role,), best)
            rows[key_of(PAIR)] = ceiling.rank(made, ranking, test, test, PAIR, best)
        rows[GROUP] = rows[key_of(using)]
        rows["known labels"] = ceiling.rank(made, ranking, test, test, using, best, known=True)
        extra = {"training": asdict(training), "space": best, "validation": values}
        return rows, extra | {"validation_mAP": values[best]}

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
        """All units, one seed of everything and the ceilings first; part k of n makes every n-th, so that n processes share the work."""
        units: list[tuple[str, Callable]] = [("knn", self.knn)]
        rows, epochs = ("report+findings", "none", "labels", "findings", "report"), self.budget.epochs
        for seed in range(1, self.seeds + 1):
            units += [(f"{name}-{seed}", partial(self.ours, name, seed)) for name in rows]
            units += [(f"single-{r}-{seed}", partial(self.ours, rows[0], seed, (r,))) for r in IMAGES]
            if seed == 1:
                own = {f"dedicated-{name}": ceiling.dedicated(name, epochs) for name in ceiling.DEDICATED}
                every = own | {f"ceiling-{n}": one for n, one in enumerate(ceiling.grid(epochs))}
                units += [(name, partial(self.ceiling, one)) for name, one in every.items()]
        number, of = part
        todo = units[number - 1 :: of]
        if of == 1:  # late fusion of separate models waits for them, so it is not shared out
            todo += [(f"late-{s}", partial(self.late_of_separate, s)) for s in range(1, self.seeds + 1)]
        for name, make in todo:
            if only is None or name.startswith(only):
                self.unit(name, make)


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
