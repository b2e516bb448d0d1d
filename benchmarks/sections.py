"""The tables of the report: subsets, ablation, real cohorts, digits, twins, and every cell."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar
from benchmarks.benches import BENCHES
from benchmarks.cell import Cell
from benchmarks.setup import PAIR, SUBSETS
from benchmarks.suite import Suite
from benchmarks.table import span
from benchmarks.units import GROUP, Unit, Units, read_lines
from mmvae.evaluation.table import average, key_of
from mmvae.metrics.estimates import DRAWS, Estimate, PerPatient, paired, read_estimate, summarise

# Subsets whose ceiling has a training of its own, and its unit.
DEDICATED = {key_of(("t2",)): "dedicated-single", key_of(PAIR): "dedicated-pair"}


def mAP_of(row: PerPatient) -> Estimate:
    """The row's mAP with its interval."""
    return summarise(row)["mAP"]


def subsets(units: Units, default: Cell) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """The default's mAP over the ceiling's, subset by subset, with the interval of the ratio over patients.

    Returns:
        Lines of the table, each subset's ratio, and the lower end of its interval.
    """
    lines = ["| series in the query | default | ceiling | ratio (95 %) |", "| --- | --- | --- | --- |"]
    competing = [
        unit
        for name, unit in units.all.items()
        if name.startswith("ceiling-") and key_of(SUBSETS[-1]) in unit[0]
    ]
    if not competing:
        return lines, {}, {}
    best, _ = max(competing, key=lambda unit: unit[1]["validation_mAP"])
    ratios, lows = {}, {}
    for subset in SUBSETS:
        key = key_of(subset)
        ours = units.mean(default, key)
        if ours is None:
            continue
        ceiling = _higher(best[key], units.all.get(DEDICATED.get(key, "")))
        ratios[key], lows[key], high = ratio_interval(ours, ceiling)
        ratio = f"{ratios[key]:.2f} ({lows[key]:.2f}–{high:.2f})"
        lines.append(f"| {key} | {span(mAP_of(ours))} | {span(mAP_of(ceiling))} | {ratio} |")
    return lines, ratios, lows


def _higher(ceiling: PerPatient, dedicated: Unit | None) -> PerPatient:
    """The ceiling of all subsets or, where its mAP is higher, that of a training on this subset alone."""
    if dedicated is None:
        return ceiling
    row = dedicated[0][GROUP]
    row = row.of([patient for patient in ceiling.patients if patient in row.patients])
    return row if np.nanmean(row.value.mAP) > np.nanmean(ceiling.value.mAP) else ceiling


def ratio_interval(ours: PerPatient, ceiling: PerPatient) -> tuple[float, float, float]:
    """Ratio of the mean mAPs, and its 95 % interval over resampled common patients."""
    common = sorted(set(ours.patients) & set(ceiling.patients))
    a, b = ours.of(common).value.mAP, ceiling.of(common).value.mAP
    keep = ~(np.isnan(a) | np.isnan(b))
    a, b = a[keep], b[keep]
    index = np.random.default_rng(0).integers(len(a), size=(DRAWS, len(a)))
    drawn = a[index].mean(1) / b[index].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(a.mean() / b.mean()), float(low), float(high)


def grid_rows(units: Units) -> list[str]:
    """A line for each cell that ran, of any suite: mAP of the images, validation, cost."""
    lines = [
        "| cell | trainings | images mAP (95 %) | validation | samples/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    listed = set()
    for rows, extra in units.all.values():
        if "cell" not in extra:
            continue
        cell = Cell.of(extra["cell"])
        family = replace(cell, seed=1).id
        if family in listed:
            continue
        listed.add(family)
        trained = units.seeds(cell)
        for key in [key for key in rows if key.split("|")[-1] == GROUP]:
            value = span(mAP_of(average([of_seed[key] for of_seed, _ in trained if key in of_seed])))
            at = np.mean([e["validation_mAP"] for _, e in trained])
            speed = np.mean([e["samples_per_second"] for _, e in trained])
            target = f" ({key.split('|')[0]})" if "|" in key else ""
            lines.append(f"| {family[:-2]}{target} | {len(trained)} | {value} | {at:.3f} | {speed:.1f} |")
    return lines


def ablation(units: Units, suite: Suite) -> list[str]:
    """mAP of the images as report, findings and alignment join the ELBO, and as each is left out."""
    lines = [
        "| objective | supervision | trainings | images mAP (95 %) | whole minus row |",
        "| --- | --- | --- | --- | --- |",
    ]
    whole = next(
        (c for c in suite.cells if c.objective != "ELBO" and c.supervision == "report+findings"), None
    )
    best = units.mean(whole, GROUP) if whole else None
    for cell in suite.cells:
        row = units.mean(cell, GROUP)
        if row is None:
            continue
        difference = "" if best is None or cell == whole else span(paired(best, row)["mAP"])
        objective = "ELBO" if cell.objective == "ELBO" else "ELBO + alignment"
        lines.append(
            f"| {objective} | {cell.supervision} | {len(units.seeds(cell))} | {span(mAP_of(row))} | {difference} |"
        )
    return lines


def against_neighbours(units: Units) -> tuple[list[str], list[Bar]]:
    """Each real cohort's cells, paired with its k-NN baseline that is best by validation; a bar per row of the default."""
    lines = [
        "| cohort | target | cell | validation | images mAP (95 %) | k-NN | cell − k-NN |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    asked: list[Bar] = []
    for name, bench in BENCHES.items():
        if not bench.folds:
            continue
        cells = {
            replace(Cell.of(extra["cell"]), seed=1, cohort_seed=1).id: Cell.of(extra["cell"])
            for _, extra in units.all.values()
            if extra.get("cell", {}).get("cohort") == name and not extra["cell"]["epochs"]
        }
        for target in bench.targets:
            for family, cell in sorted(cells.items()):
                draws = _draws(units, cell, target)
                if not draws:
                    continue
                ours, base = average([draw[0] for draw in draws]), average([draw[1] for draw in draws])
                difference = paired(ours, base)["mAP"]
                trained = f"{family[:-2]} ({len(draws)} × {bench.folds} folds)"
                validation = np.mean([draw[2] for draw in draws])
                values = " | ".join(map(span, (mAP_of(ours), mAP_of(base), difference)))
                lines.append(f"| {name} | {target} | {trained} | {validation:.3f} | {values} |")
                if replace(cell, cohort_seed=1, seed=1) == Cell(cohort=name, supervision=cell.supervision):
                    bar = f"{name}, {target}, {cell.supervision}: minus k-NN above −.02, lower end above −.10"
                    low, value = difference.low, difference.value
                    met = low is not None and value is not None and low > -0.10 and value > -0.02
                    asked.append((bar, met, span(difference)))
    return lines, asked


def _draws(units: Units, cell: Cell, target: str) -> list[tuple[PerPatient, PerPatient, float]]:
    """For each draw of folds that both have: the cell's row, the k-NN row, and the cell's validation mAP."""
    key = f"{target}|{GROUP}" if len(cell.bench.targets) > 1 else GROUP
    draws = []
    for seed in range(1, 10):
        ours = units.all.get(replace(cell, cohort_seed=seed).id)
        base = units.all.get(f"knn-{cell.cohort}-{seed}")
        if ours and base:
            draws.append((ours[0][key], base[0][f"{target}|best"], ours[1]["validation_mAP"]))
    return draws


def digits(units: Units) -> list[str]:
    """PolyMNIST-style cells: coherence and linear classification by number of inputs, joint coherence, log-likelihood."""
    lines = [
        "| cell | coherence, 1 / 2 / 3 / 4 inputs | joint coherence | linear classification, 1 / 2 / 3 / 4 / 5 inputs | log-likelihood (± standard error) |",
        "| --- | --- | --- | --- | --- |",
    ]
    measured = {n: e["measured"] for n, (_, e) in units.all.items() if "measured" in e}
    series = lambda by_inputs: " / ".join(f"{v:.3f}" for v in by_inputs.values())  # noqa: E731
    for name, m in measured.items():
        likelihood = next(v for key, v in m.items() if key.startswith("log-likelihood"))
        lines.append(
            f"| {name[:-2]} | {series(m['coherence by inputs'])} | {m['joint coherence']:.3f} | "
            f"{series(m['linear classification by inputs'])} | {likelihood:.0f} ± {m['its standard error']:.0f} |"
        )
    if measured:
        real = next(iter(measured.values()))["classifiers' accuracy on real views"]
        lines += ["", f"The classifiers that judge coherence are right on real views in {' / '.join(f'{v:.2f}' for v in real)}; chance is .1."]  # fmt: skip
    return lines


def twins(results: Path) -> list[str]:
    """What `benchmarks.twins` measured, if it ran."""
    every = read_lines(results / "twins.jsonl")
    if not every:
        return ["Not run."]
    names = list(every[0]["measurement"])
    lines = [f"| cell | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for line in every:
        values = " | ".join(span(read_estimate(line["measurement"][name])) for name in names)
        lines.append(f"| {line['cell']} | {values} |")
    return lines
