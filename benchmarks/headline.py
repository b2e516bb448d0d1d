"""The headline table on the phantom's bench set: one command, resumable, every row in EVALUATION.md's terms.

mmvae-bench phantom --seed 1 --work runs/headline      # writes the cohort, trains, writes the table
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
from mmvae_clinical import Clinical

from benchmarks import ceiling, neighbours
from benchmarks.benches import BENCHES
from benchmarks.cell import Cell
from benchmarks.setup import IMAGES, SUBSETS
from benchmarks.suite import make
from benchmarks.table import markdown, table
from benchmarks.units import GROUP, Unit
from mmvae.data import CaseDataset
from mmvae.evaluation.fold import evaluate_fold
from mmvae.evaluation.ranking import Ranking, Side
from mmvae.evaluation.table import key_of
from mmvae.latent.space import RetrievalSpace
from mmvae.metrics.estimates import PerPatient
from mmvae.modality import TrainingViews
from mmvae.model import MMVAE
from mmvae.retrieval.embed import embed

PHANTOM = BENCHES["phantom"]


class Headline:
    """The units of the table, a file each; a unit that exists is not run again.

    Args:
        seed: Of the phantom.
        work: Folder of cohort, runs and units.
        seeds: Trainings per row.
        epochs: Of each training.
    """

    def __init__(self, seed: int, work: Path, seeds: int, epochs: int):
        self.seed, self.work, self.seeds, self.epochs = seed, work, seeds, epochs
        self.cohort = PHANTOM.load(work, seed)
        self.split = self.cohort.splits.fold(None)
        self.relevance = self.cohort.card.relevance

    def cell(self, supervision: str, seed: int, roles: tuple[str, ...] = ()) -> Cell:
        """The cell of one training of ours."""
        epochs = 0 if self.epochs == PHANTOM.budget.epochs else self.epochs
        return Cell(cohort_seed=self.seed, supervision=supervision, seed=seed, roles=roles, epochs=epochs)

    def path(self, name: str) -> Path:
        """The file of a unit."""
        return self.work / "units" / f"{name}.json"

    def _side(self, model: MMVAE, split: str) -> Side:
        cases = self.cohort.split(split)
        return Side.of(cases, embed(model, self.cohort, cases), self.relevance)

    def unread(self, seed: int) -> Unit:
        """The default's ranking by the posterior mean itself, without the readout that its checkpoint chose."""
        checkpoint = self.work / "runs" / self.cell("report+findings", seed).id / "best.ckpt"
        model = MMVAE.load_from_checkpoint(checkpoint)
        model.choose_space(None, "cosine")
        return {GROUP: evaluate_fold([model], self.cohort, self.split, "unseen", self.relevance)[GROUP]}, {}

    def late_of_separate(self, seed: int) -> Unit:
        """Late fusion of models of one role each, from their checkpoints."""
        cells = [self.cell("report+findings", seed, (role,)) for role in IMAGES]
        models = [MMVAE.load_from_checkpoint(self.work / "runs" / cell.id / "best.ckpt") for cell in cells]
        rows = evaluate_fold(models, self.cohort, self.split, "unseen", self.relevance)
        return {GROUP: rows["late/full"]}, {}

    def ceiling(self, training: ceiling.Training) -> Unit:
        """One of the trainings that compete for the ceiling, in the space that is best by validation."""
        using = training.using or IMAGES
        trained = ceiling.train(self.cell("none", training.seed).model(), self.cohort, training)
        ranking = Ranking(RetrievalSpace(), self.relevance)
        validation, test = self._side(trained.model, "validation"), self._side(trained.model, "test")
        quality = {}
        for space in ceiling.SPACES:
            row = ceiling.rank(trained, ranking, validation, validation, using, space)
            quality[space] = float(np.nanmean(row.value.mAP))
        best = max(quality, key=lambda space: quality[space])
        rows = {GROUP: ceiling.rank(trained, ranking, test, test, using, best)}
        if training.using is None:
            for subset in [*((role,) for role in IMAGES), *SUBSETS]:
                whole = test.experts.having(subset).sum(1) == len(subset)
                rows[key_of(subset)] = ceiling.rank(trained, ranking, test, test, subset, best, whole)
        rows["known labels"] = ceiling.rank(trained, ranking, test, test, using, ceiling.KNOWN_LABELS)
        extra = {"training": asdict(training), "space": best, "validation": quality}
        return rows, extra | {"validation_mAP": quality[best]}

    def knn(self) -> Unit:
        """The k-NN baseline that is best by validation, and the record alone."""
        cases, training = self.cohort.cases, set(self.split.train)
        ranking = Ranking(RetrievalSpace(), self.relevance)
        tables = neighbours.features(self.cohort, cases, PHANTOM.recipes(IMAGES), training)

        def row(table: neighbours.Features, part: str) -> PerPatient:
            patients = set(self.split.part(part))
            rows = np.array([i for i, case in enumerate(cases) if case.patient in patients])
            return neighbours.rank(table, rows, rows, cases, ranking)

        quality = {kind: float(np.nanmean(row(t, "validation").value.mAP)) for kind, t in tables.items()}
        best = max(quality, key=lambda kind: quality[kind])
        rows = {f"k-NN {kind}": row(table, "test") for kind, table in tables.items()}
        rows["record alone"] = row(self._record(), "test")
        return {GROUP: rows[f"k-NN {best}"], **rows}, {"validation": quality, "best": best}

    def _record(self) -> neighbours.Features:
        """The record of every case as the model sees it; a missing one is blank."""
        cases, training = self.cohort.cases, set(self.split.train)
        bare = CaseDataset(self.cohort, cases, {"clinical": Clinical()}, ())
        views = [bare.view(case, "clinical") for case in cases if case.patient in training]
        fitted = Clinical().fitted(TrainingViews(self.cohort.card, views))
        data = CaseDataset(self.cohort, cases, {"clinical": fitted}, ())
        observations = [data.observe(i, "clinical") or fitted.blank() for i in range(len(data))]
        return np.stack([observation.clean().value.numpy() for observation in observations])

    def run(self, only: str | None) -> None:
        """Runs all units, one seed of everything and the ceilings first, but not those that another process is running.

        Args:
            only: Runs only the units whose name has this in it.
        """
        units: list[tuple[str, Callable]] = [("knn", self.knn)]
        names, epochs = ("report+findings", "none", "labels", "findings", "report"), self.epochs
        for seed in range(1, self.seeds + 1):
            cells = [self.cell(name, seed) for name in names]
            cells += [self.cell(names[0], seed, (role,)) for role in IMAGES]
            units += [(cell.id, partial(cell.run, self.work)) for cell in cells]
            if seed == 1:
                own = {f"dedicated-{name}": ceiling.dedicated(name, epochs) for name in ceiling.DEDICATED}
                every = own | {f"ceiling-{n}": each for n, each in enumerate(ceiling.grid(epochs))}
                units += [(name, partial(self.ceiling, training)) for name, training in every.items()]
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
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the phantom")
    parser.add_argument(
        "--work", type=Path, required=True, help="cohort, runs and units; what exists is kept"
    )
    parser.add_argument("--seeds", type=int, default=3, help="trainings per row")
    parser.add_argument("--epochs", type=int, default=PHANTOM.budget.epochs)
    parser.add_argument("--only", help="units whose name has this in it; `table` runs none")
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
