"""One unit of a benchmark on disk: scores per patient and how they came about, so that a kill costs one unit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmvae.atomic import write_atomically
from mmvae.metrics.estimates import PerPatient
from mmvae.metrics.scores import METRICS, Scores

GROUP = "group/images"


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


def load(path: Path) -> tuple[dict[str, PerPatient], dict[str, Any]]:
    """What `save` wrote."""
    content = json.loads(path.read_text())
    rows = {
        key: PerPatient(tuple(row["patients"]), _scores(row["value"]), _scores(row["chance"]))
        for key, row in content.pop("rows").items()
    }
    return rows, content


def _scores(table: list[list[float]]) -> Scores:
    return Scores(np.array(table, float).reshape(-1, len(METRICS)))
