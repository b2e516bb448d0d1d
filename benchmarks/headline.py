"""The headline table on the phantom's bench set: one command, resumable, every row in EVALUATION.md's terms.

mmvae-bench phantom --seed 1 --work runs/headline      # makes the cohort, trains, writes the table
mmvae-bench phantom --seed 2 --work runs/headline2     # the same on a phantom of another seed

Started twice on the same folder, two processes share the work.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import ceiling, neighbours
from benchmarks.benches import BENCHES
from benchmarks.cell import Cell
from benchmarks.setup import IMAGES, SUBSETS
from benchmarks.suite import make
from benchmarks.table import markdown, table
from benchmarks.units import GROUP
from mmvae.evaluation.evaluate import Ranking, Side, evaluate_fold, key_of
from mmvae.latent.fusion import PoE
from mmvae.metrics.estimates import PerPatient
from mmvae.retrieval.embed import embed

PHANTOM = BENCHES["phantom"]


class Headline:
    """The units of the table: each is a file; what exists is not made again."""

    def __init__(self, seed: int, work: Path, seeds: int, epochs: int):
        self.seed, self.work, self.seeds, self.epochs = seed, work, seeds, epochs
        self.cohort = PHANTOM.load(work, seed)
        self.split = self.cohort.splits.fold(None)
        self.relevance = tuple(self.cohort.card.relevance)

    def cell(self, supervision: str, seed: int, roles: tuple[str, ...] = ()) -> Cell:
        """One training of ours."""
        epochs = 0 if self.epochs == PHANTOM.budget.epochs else self.epochs
        return Cell(cohort_seed=self.seed, supervision=supervision, seed=seed, roles=roles, epochs=epochs)

    def path(self, name: str) -> Path:
        """Where a unit lies."""
        return self.work / "units" / f"{name}.json"

    def _side(self, made, split: str) -> Side:
        cases = self.cohort.split(split)
        return Side.of(cases, embed(made, self.cohort, cases), self.relevance)

    def unread(self, seed: int):
        """The default's ranking by the posterior mean itself, without the readout that its checkpoint chose."""
        from mmvae.model import MMVAE

        kept = self.work / "runs" / self.cell("report+findings", seed).id / "best.ckpt"
        model = MMVAE.load_from_checkpoint(kept)
        model.readout, model.distance = None, "cosine"
        return {GROUP: evaluate_fold([model], self.cohort, self.split, "unseen", self.relevance)[GROUP]}, {}

    def late_of_separate(self, seed: int):
        """Late fusion of models of one role each, from their checkpoints."""
        from mmvae.model import MMVAE

        cells = [self.cell("report+findings", seed, (role,)) for role in IMAGES]
        models = [MMVAE.load_from_checkpoint(self.work / "runs" / cell.id / "best.ckpt") for cell in cells]
        rows = evaluate_fold(models, self.cohort, self.split, "unseen", self.relevance)
        return {GROUP: rows["late/full"]}, {}

    def ceiling(self, training: ceiling.Training):
        """One of the trainings that compete for the ceiling, in the space that is best by validation."""
        using = training.using or IMAGES
        unfitted = self.cell("none", training.seed).model()
        made = ceiling.train(unfitted, self.cohort, training)
        ranking = Ranking(made.model.fusion, "cosine", self.relevance)
        validation, test = self._side(made.model, "validation"), self._side(made.model, "test")
        by_space = {s: ceiling.rank(made, ranking, validation, validation, using, s) for s in ceiling.SPACES}
        values = {s: float(np.nanmean(r.value[:, 3])) for s, r in by_space.items()}
        best = max(values, key=values.get)
        rows = {GROUP: ceiling.rank(made, ranking, test, test, using, best)}
        if training.using is None:
            for subset in [*((role,) for role in IMAGES), *SUBSETS]:
                whole = test.experts.having(subset).sum(1) == len(subset)
                rows[key_of(subset)] = ceiling.rank(made, ranking, test, test, subset, best, whole)
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
        ranking = Ranking(PoE(), "cosine", self.relevance)
        tables = neighbours.features(self.cohort, cases, PHANTOM.recipes(IMAGES), train_patients)
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

    def run(self, only: str | None) -> None:
        """All units, one seed of everything and the ceilings first; what another process is at is left to it."""
        units: list[tuple[str, Callable]] = [("knn", self.knn)]
        names, epochs = ("report+findings", "none", "labels", "findings", "report"), self.epochs
        for seed in range(1, self.seeds + 1):
            cells = [self.cell(name, seed) for name in names]
            cells += [self.cell(names[0], seed, (role,)) for role in IMAGES]
            units += [(cell.id, partial(cell.run, self.work)) for cell in cells]
            if seed == 1:
                own = {f"dedicated-{name}": ceiling.dedicated(name, epochs) for name in ceiling.DEDICATED}
                every = own | {f"ceiling-{n}": one for n, one in enumerate(ceiling.grid(epochs))}
                units += [(name, partial(self.ceiling, one)) for name, one in every.items()]
        for name, unit in units:
            if only is None or only in name:
                make(self.path(name), unit)
        for seed in range(1, self.seeds + 1):  # both wait for the models that they read
            # A checkpoint is there before its training ends; the unit is not.
            if (only is None or only == "unread") and self.path(self.cell(names[0], seed).id).exists():
                make(self.path(f"unread-{seed}"), partial(self.unread, seed))
            cells = [self.cell(names[0], seed, (role,)) for role in IMAGES]
            if (only is None or only == "late") and all(self.path(cell.id).exists() for cell in cells):
                make(self.path(f"late-{seed}"), partial(self.late_of_separate, seed))


def main(argv: Sequence[str] | None = None) -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the phantom")
    parser.add_argument(
        "--work", type=Path, required=True, help="cohort, runs and units; what exists is kept"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings a row")
    parser.add_argument("--epochs", type=int, default=PHANTOM.budget.epochs)
    parser.add_argument("--only", help="units whose name has this in it; `table` makes none")
    parser.add_argument("--results", type=Path, help="JSONL and Markdown of the table are written here")
    arguments = parser.parse_args(argv)
    bench = Headline(arguments.seed, arguments.work, arguments.seeds, arguments.epochs)
    if arguments.only != "table":
        bench.run(arguments.only)
    lines = table(bench.work, bench.cohort, lambda *name: bench.cell(*name).id)
    print(markdown(lines))
    if arguments.results:
        arguments.results.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        arguments.results.with_suffix(".md").write_text(markdown(lines))


if __name__ == "__main__":
    main()
