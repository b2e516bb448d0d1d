"""Units of a benchmark on disk, each with scores per patient and how they came about, so that a kill costs one unit."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell import Cell
from mmvae.atomic import write_atomically
from mmvae.evaluation.table import average
from mmvae.metrics.estimates import PerPatient
from mmvae.metrics.scores import METRICS, Scores

GROUP = "group/images"

Unit = tuple[dict[str, PerPatient], dict[str, Any]]  # rows by KEY, and further fields


def save(path: Path, rows: Mapping[str, PerPatient], extra: Mapping[str, Any]) -> None:
    """Writes the rows of one unit and its further fields, by rename."""
    plain = {
        key: {
            "patients": list(row.patients),
            "value": row.value.table.tolist(),
            "chance": row.chance.table.tolist(),
        }
        for key, row in rows.items()
    }
    write_atomically(path, json.dumps({"rows": plain, **extra}).encode())


def load(path: Path) -> Unit:
    """What `save` wrote."""
    content = json.loads(path.read_text())
    rows = {
        key: PerPatient(tuple(row["patients"]), _scores(row["value"]), _scores(row["chance"]))
        for key, row in content.pop("rows").items()
    }
    return rows, content


def _scores(table: list[list[float]]) -> Scores:
    return Scores(np.array(table, float).reshape(-1, len(METRICS)))


class Units:
    """Units by id, read once."""

    def __init__(self, work: Path):
        self.work = work
        self.all = {path.stem: load(path) for path in sorted((work / "units").glob("*.json"))}

    def seeds(self, cell: Cell) -> list[Unit]:
        """The trainings of this cell with any seed."""
        names = [replace(cell, seed=seed).id for seed in range(1, 10)]
        return [self.all[name] for name in names if name in self.all]

    def mean(self, cell: Cell, key: str) -> PerPatient | None:
        """A patient's value averaged over seeds; None where nothing ran or the key is absent."""
        parts = [rows[key] for rows, _ in self.seeds(cell) if key in rows]
        return average(parts) if parts else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
