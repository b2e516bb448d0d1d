"""The headline table from the units that `benchmarks.headline` made: seeds averaged by patient, paired with the default."""

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks import ceiling
from benchmarks.benches import BENCHES
from benchmarks.setup import IMAGES, versions
from benchmarks.units import GROUP, load
from mmvae.cohort import Cohort
from mmvae.evaluation.evaluate import average
from mmvae.metrics.estimates import PerPatient, paired, summarise

CEILING = "supervised ceiling"


def table(work: Path, cohort: Cohort, id_of: Callable[..., str]) -> list[dict]:
    """The rows from the units made so far: seeds averaged by patient, paired with the default; `id_of(supervision, seed, roles)` names a unit."""
    units = {path.stem: load(path) for path in sorted((work / "units").glob("*.json"))}
    made: dict[str, tuple[PerPatient, dict]] = {}

    def put(name: str, parts: list[PerPatient], **extra):
        if parts:
            means = [float(np.nanmean(p.value[:, 3])) for p in parts]
            made[name] = (average(parts), {"seeds": len(parts), "by_seed_mAP": means, **extra})

    trained = lambda name, roles=(): [  # noqa: E731
        units[i] for i in (id_of(name, seed, roles) for seed in range(1, 10)) if i in units
    ]
    for name in BENCHES["phantom"].supervision:
        parts = trained(name)
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
    put(
        "ours, report+findings, the posterior mean itself",
        [units[f"unread-{seed}"][0][GROUP] for seed in range(1, 10) if f"unread-{seed}" in units],
        supervision="report+findings",
    )
    for role in IMAGES:
        put(
            f"{role} alone, own model",
            [rows[GROUP] for rows, _ in trained("report+findings", (role,))],
            supervision="report+findings",
        )
    put(
        "late fusion of separate models",
        [units[f"late-{seed}"][0][GROUP] for seed in range(1, 10) if f"late-{seed}" in units],
        supervision="report+findings",
    )
    if "knn" in units:
        rows, extra = units["knn"]
        put(f"k-NN ({extra['best']})", [rows[GROUP]], supervision="none", validation=extra["validation"])
        put("record alone, k-NN", [rows["record alone"]], supervision="none")
    competing = {name: u for name, u in units.items() if name.startswith("ceiling-")}
    tried = {n: {**u[1]["training"], "validation": u[1]["validation"]} for n, u in competing.items()}
    if competing:
        rows, extra = competing[max(competing, key=lambda n: competing[n][1]["validation_mAP"])]
        config = {**extra["training"], "space": extra["space"]}
        put(CEILING, [rows[GROUP]], supervision="labels", config=config, tried=tried)
        put(f"{CEILING} against known labels", [rows["known labels"]], supervision="labels", config=config)
        for role in IMAGES:
            put(f"{CEILING}, {role} alone", [rows[role]], supervision="labels", config=config)
    for name in ceiling.DEDICATED:
        if f"dedicated-{name}" in units:
            rows, extra = units[f"dedicated-{name}"]
            config = {**extra["training"], "space": extra["space"]}
            put(f"{CEILING}, trained on {name} only", [rows[GROUP]], supervision="labels", config=config)
    default = made.get("ours, report+findings")
    out = []
    for name, (row, extra) in made.items():
        line = {"row": name, "metrics": {GROUP: summarise(row.value, row.chance)}, **extra}
        if default is not None and name != "ours, report+findings":
            line["metrics"][f"paired/default-{name}"] = paired(default[0], row)
        line |= {
            "seed": list(range(1, extra["seeds"] + 1)),
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


def ratios(lines: list[dict]) -> dict[str, float]:
    """mAP of the default and of the row that sees labels over the ceiling of the images: the larger of its two counts."""
    value = {line["row"]: line["metrics"][GROUP]["mAP"]["value"] for line in lines}
    ceilings = [value[n] for n in (CEILING, f"{CEILING}, trained on images only") if n in value]
    rows = [f"ours, {name}" for name in ("report+findings", "labels") if f"ours, {name}" in value]
    return {name: value[name] / max(ceilings) for name in rows} if ceilings else {}


def span(m: Mapping) -> str:
    """value (low–high); a dash after a minus would be hard to read."""
    between = " to " if m["low"] < 0 else "–"
    return f"{m['value']:.3f} ({m['low']:.3f}{between}{m['high']:.3f})"


def markdown(lines: list[dict]) -> str:
    """The table for people."""
    if not lines:
        return "No row yet.\n"
    chance = lines[0]["metrics"][GROUP]["mAP"]["chance"]
    out = [
        f"Of the ceiling: {', '.join(f'{name} {share:.2f}' for name, share in ratios(lines).items())}.",
        "",
    ]
    out += [
        "| row | seeds | mAP (95 %) | P@5 (95 %) | default minus row, mAP |",
        "| --- | --- | --- | --- | --- |",
    ]
    out.append(f"| chance | | {chance:.3f} | {lines[0]['metrics'][GROUP]['P@5']['chance']:.3f} | |")
    for line in sorted(lines, key=lambda x: x["metrics"][GROUP]["mAP"]["value"]):
        difference = next((m["mAP"] for key, m in line["metrics"].items() if key.startswith("paired/")), None)
        metrics = line["metrics"][GROUP]
        out.append(
            f"| {line['row']} | {line['seeds']} | {span(metrics['mAP'])} | {span(metrics['P@5'])} | {span(difference) if difference else ''} |"
        )
    return "\n".join(out) + "\n"
