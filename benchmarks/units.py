"""One unit of a benchmark on disk: per-patient rows and what made them, so that a kill costs one unit."""

import json
import os
from pathlib import Path

import numpy as np

from mmvae.metrics.estimates import PerPatient

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
