"""The headline table from the units that `benchmarks.headline` left: seeds averaged by patient, paired with the default."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ceiling
from benchmarks.benches import BENCHES
from benchmarks.setup import IMAGES, versions
from benchmarks.units import GROUP, Unit, load
from mmvae.cohort import Cohort
from mmvae.evaluation.table import average
from mmvae.metrics.estimates import Estimate, PerPatient, paired, plain, read_estimate, summarise

CEILING = "supervised ceiling"
DEFAULT = "ours, report+findings"
SEEDS = range(1, 10)
Units = Mapping[str, Unit]


@dataclass(frozen=True)
class Entry:
    """One row before any average: its name, the scores of each training, and further fields of its JSON line."""

    name: str
    parts: list[PerPatient]
    fields: Mapping[str, Any]


def table(work: Path, cohort: Cohort, id_of: Callable[..., str]) -> list[dict[str, Any]]:
    """The JSON lines of the rows that the units give so far.

    Args:
        work: Folder whose `units` are read.
        cohort: Of the phantom, whose hash and splits every line names.
        id_of: The name of a unit from supervision, seed and roles.
    """
    units = {path.stem: load(path) for path in sorted((work / "units").glob("*.json"))}
    entries = (*_ours(units, id_of), *_neighbours(units), *_ceilings(units))
    rows = {entry.name: (average(entry.parts), entry) for entry in entries if entry.parts}
    default = rows[DEFAULT][0] if DEFAULT in rows else None
    return [_line(scores, entry, default, cohort) for scores, entry in rows.values()]


def _line(scores: PerPatient, entry: Entry, default: PerPatient | None, cohort: Cohort) -> dict[str, Any]:
    metrics = {GROUP: plain(summarise(scores))}
    if default is not None and entry.name != DEFAULT:
        metrics[f"paired/default-{entry.name}"] = plain(paired(default, scores))
    return {
        "row": entry.name,
        "metrics": metrics,
        "seeds": len(entry.parts),
        "by_seed_mAP": [float(np.nanmean(part.value.mAP)) for part in entry.parts],
        **entry.fields,
        "seed": list(range(1, len(entry.parts) + 1)),
        "versions": versions(),
        "hardware": platform.machine() + f", {os.cpu_count()} cores",
        "splits": cohort.splits.sha256,
        "phantom": cohort.card.phantom,
        "config": entry.fields.get("config", {}),
        "weights": entry.fields.get("weights", {}),
    }


def _ours(units: Units, id_of: Callable[..., str]) -> Iterator[Entry]:
    """Our models: each supervision, the default in other archives and by single series, and models of one series each."""

    def trainings(supervision: str, roles: tuple[str, ...] = ()) -> list[Unit]:
        return [units[i] for i in (id_of(supervision, seed, roles) for seed in SEEDS) if i in units]

    def by_seed(prefix: str) -> list[PerPatient]:
        return [units[f"{prefix}-{n}"][0][GROUP] for n in SEEDS if f"{prefix}-{n}" in units]

    default = {"supervision": "report+findings"}
    for supervision in BENCHES["phantom"].supervision:
        parts = trainings(supervision)
        fields: dict[str, Any] = {"supervision": supervision}
        if parts:
            fields["validation_mAP"] = [extra["validation_mAP"] for _, extra in parts]
            fields |= {name: parts[0][1][name] for name in ("config", "weights")}
        yield Entry(f"ours, {supervision}", [rows[GROUP] for rows, _ in parts], fields)
        if supervision == "report+findings":
            for name, key in (
                ("ours, report+findings, archive joint", "joint/" + GROUP),
                ("ours, report+findings, archive that knows its reports and terms", "with_answers/" + GROUP),
                ("late fusion of this model's experts", "late/" + GROUP),
                *((f"{role} alone, this model", role) for role in IMAGES),
            ):
                yield Entry(name, [rows[key] for rows, _ in parts], default)
    yield Entry("ours, report+findings, the posterior mean itself", by_seed("unread"), default)
    for role in IMAGES:
        parts = trainings("report+findings", (role,))
        yield Entry(f"{role} alone, own model", [rows[GROUP] for rows, _ in parts], default)
    yield Entry("late fusion of separate models", by_seed("late"), default)


def _neighbours(units: Units) -> Iterator[Entry]:
    """The k-NN baseline that is best by validation, and the record alone."""
    if "knn" not in units:
        return
    rows, extra = units["knn"]
    none = {"supervision": "none"}
    yield Entry(f"k-NN ({extra['best']})", [rows[GROUP]], {**none, "validation": extra["validation"]})
    yield Entry("record alone, k-NN", [rows["record alone"]], none)


def _ceilings(units: Units) -> Iterator[Entry]:
    """The supervised ceiling that is best by validation, by all and by single series, and the ceilings of fixed roles."""
    competing = {name: unit for name, unit in units.items() if name.startswith("ceiling-")}
    if competing:
        rows, extra = max(competing.values(), key=lambda unit: unit[1]["validation_mAP"])
        tried = {n: {**e["training"], "validation": e["validation"]} for n, (_, e) in competing.items()}
        fields = _ceiling_fields(extra)
        yield Entry(CEILING, [rows[GROUP]], {**fields, "tried": tried})
        yield Entry(f"{CEILING} against known labels", [rows["known labels"]], fields)
        for role in IMAGES:
            yield Entry(f"{CEILING}, {role} alone", [rows[role]], fields)
    for name in ceiling.DEDICATED:
        if f"dedicated-{name}" in units:
            rows, extra = units[f"dedicated-{name}"]
            yield Entry(f"{CEILING}, trained on {name} only", [rows[GROUP]], _ceiling_fields(extra))


def _ceiling_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"supervision": "labels", "config": {**extra["training"], "space": extra["space"]}}


# ---- for people -------------------------------------------------------------------------------------------------------


def shares_of_ceiling(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """mAP of the default and of the row that sees labels, over the larger of the images' two ceilings."""
    every = {line["row"]: line["metrics"][GROUP]["mAP"]["value"] for line in lines}
    value = {row: mAP for row, mAP in every.items() if mAP is not None}
    ceilings = [value[n] for n in (CEILING, f"{CEILING}, trained on images only") if n in value]
    rows = [f"ours, {name}" for name in ("report+findings", "labels") if f"ours, {name}" in value]
    return {name: value[name] / max(ceilings) for name in rows} if ceilings else {}


def span(estimate: Estimate) -> str:
    """value (low–high), with "to" where a dash after a minus would be hard to read."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    between = " to " if estimate.low < 0 else "–"
    return f"{estimate.value:.3f} ({estimate.low:.3f}{between}{estimate.high:.3f})"


def markdown(lines: list[dict[str, Any]]) -> str:
    """The table for people."""
    if not lines:
        return "No row yet.\n"
    number = lambda x: "undefined" if x is None else f"{x:.3f}"  # noqa: E731
    chance = {metric: number(lines[0]["metrics"][GROUP][metric]["chance"]) for metric in ("mAP", "P@5")}
    text = [
        f"Of the ceiling: {', '.join(f'{name} {share:.2f}' for name, share in shares_of_ceiling(lines).items())}.",
        "",
        "| row | seeds | mAP (95 %) | P@5 (95 %) | default minus row, mAP |",
        "| --- | --- | --- | --- | --- |",
        f"| chance | | {chance['mAP']} | {chance['P@5']} | |",
    ]
    for line in sorted(lines, key=lambda line: line["metrics"][GROUP]["mAP"]["value"] or 0.0):
        metrics = line["metrics"]
        mAP, p_at_5 = (span(read_estimate(metrics[GROUP][metric])) for metric in ("mAP", "P@5"))
        paired_keys = [key for key in metrics if key.startswith("paired/")]
        difference = span(read_estimate(metrics[paired_keys[0]]["mAP"])) if paired_keys else ""
        text.append(f"| {line['row']} | {line['seeds']} | {mAP} | {p_at_5} | {difference} |")
    return "\n".join(text) + "\n"
