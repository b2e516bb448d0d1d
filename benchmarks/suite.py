"""The cells of a suite's YAML, and their run: what is not there yet, shared by all processes started on the same folder."""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks.baseline import knn
from benchmarks.benches import BENCHES
from benchmarks.cell import Cell, row_of
from benchmarks.units import load, save


@dataclass(frozen=True)
class Suite:
    """Cells in their order, and how each rule is tuned before.

    Args:
        name: Of the result files.
        cells: What is run, in this order.
        tuning_epochs: Of each configuration that is tried; 0: nothing is tuned.
        configurations: `model.*` settings, all tried for each pair of cohort and fusion; the best by validation mAP
            becomes that of every cell of the pair.
    """

    name: str
    cells: tuple[Cell, ...]
    tuning_epochs: int = 0
    configurations: tuple[Mapping, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Suite":
        """The suite of a YAML file, whose `cells` are grids: each list of values in a grid is crossed with every other.

        Raises:
            ValueError: naming what is unknown.
        """
        content = yaml.safe_load(path.read_text())
        unknown = set(content) - {"name", "cells", "tuning"}
        if unknown:
            raise ValueError(
                f"{path.name}: unknown field {sorted(unknown)[0]!r}; expected name, cells, tuning"
            )
        cells = [Cell.of(entry) for grid in content["cells"] for entry in _crossed(grid)]
        tuning = content.get("tuning") or {}
        unique = tuple(dict.fromkeys(cell.id for cell in cells))
        by_id = {cell.id: cell for cell in cells}
        return cls(
            content["name"],
            tuple(by_id[i] for i in unique),
            tuning.get("epochs", 0),
            tuple(tuning.get("configurations", ())),
        )

    # ---- tuning ------------------------------------------------------------------------------------------------------

    def trials(self, cell: Cell) -> list[Cell]:
        """The configurations tried for this cell's cohort and fusion.

        Supervision and objective are those of the pair's first cell, subsets are random, the seed is 1.
        """
        like = replace(
            cell, visibility="random", missing=0.0, incomplete="kept", roles=(), seed=1, settings={}
        )
        same = [
            c
            for c in self.cells
            if (c.cohort, c.cohort_seed, c.fusion) == (cell.cohort, cell.cohort_seed, cell.fusion)
        ]
        first = next((c for c in same if c.visibility == "random"), same[0])
        like = replace(like, supervision=first.supervision, objective=first.objective)
        return [replace(like, epochs=self.tuning_epochs, settings=dict(s)) for s in self.configurations]

    def tuned(self, cell: Cell, work: Path) -> Cell | None:
        """The cell with the settings that won; None while a trial is missing."""
        if not self.configurations:
            return cell
        values = {}
        for trial in self.trials(cell):
            path = _unit(work, trial)
            if not path.exists():
                return None
            values[json.dumps(trial.settings)] = load(path)[1]["validation_mAP"]
        return replace(cell, settings=json.loads(max(values, key=lambda settings: values[settings])))

    def todo(self, work: Path) -> Iterator[Cell]:
        """Trials, then cells, each as soon as it can be run."""
        yield from _unique(t for cell in self.cells for t in self.trials(cell))
        for cell in self.cells:
            while (tuned := self.tuned(cell, work)) is None:
                time.sleep(5)  # another process is at the last trial
            yield tuned


def _unique(cells: Iterable[Cell]) -> Iterator[Cell]:
    listed: set[str] = set()
    for cell in cells:
        if cell.id not in listed:
            listed.add(cell.id)
            yield cell


def _crossed(grid: Mapping) -> Iterator[dict]:
    lists = {k: v for k, v in grid.items() if isinstance(v, list) and k not in ("roles", "sizes")}
    for values in itertools.product(*lists.values()):
        yield {**grid, **dict(zip(lists, values))}


def _unit(work: Path, cell: Cell) -> Path:
    return work / "units" / f"{cell.id}.json"


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone may write `path` now; a claim of a process that has died counts for nothing."""
    claim = path.with_suffix(".claim")
    claim.parent.mkdir(parents=True, exist_ok=True)
    if claim.exists():
        with contextlib.suppress(ValueError, ProcessLookupError, FileNotFoundError):
            os.kill(int(claim.read_text()), 0)
            yield False
            return
        claim.unlink(missing_ok=True)
    try:
        stream = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        yield False
        return
    os.write(stream, str(os.getpid()).encode())
    os.close(stream)
    try:
        yield True
    finally:
        claim.unlink(missing_ok=True)


def make(path: Path, run: Callable[[], tuple[dict, dict]]) -> None:
    """Runs one unit unless it is there or another process is running it."""
    if path.exists():
        return
    with claimed(path) as mine:
        if not mine or path.exists():
            return
        start = time.time()
        rows, extra = run()
        save(path, rows, {**extra, "seconds": round(time.time() - start, 1)})
        print(f"{path.stem}: {time.time() - start:.0f} s", flush=True)


def run(suite: Suite, work: Path) -> None:
    """Runs every cell that is not there yet, and the k-NN baseline of each cohort that has folds."""
    for bench, seed in dict.fromkeys((cell.bench.name, cell.cohort_seed) for cell in suite.cells):
        if BENCHES[bench].folds:
            make(
                work / "units" / f"knn-{bench}-{seed}.json",
                lambda b=BENCHES[bench], s=seed: knn(b.load(work, s), b),
            )
    for cell in suite.todo(work):
        make(_unit(work, cell), lambda c=cell: c.run(work))


def rows(suite: Suite, work: Path) -> list[dict]:
    """The JSONL rows of the cells and trials that have run so far."""
    lines = []
    for trial in _unique(t for cell in suite.cells for t in suite.trials(cell)):
        if _unit(work, trial).exists():
            lines.append({"suite": suite.name, "part": "tuning", **row_of(*load(_unit(work, trial)))})
    for cell in suite.cells:
        tuned = suite.tuned(cell, work)
        if tuned is not None and _unit(work, tuned).exists():
            lines.append({"suite": suite.name, "part": "grid", **row_of(*load(_unit(work, tuned)))})
    return lines
