"""PoE, MoE and MoPoE by the number of series in the query, as a table and as a picture beside their cost."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell import Cell
from benchmarks.setup import SERIES, SUBSETS
from benchmarks.suite import Suite
from benchmarks.table import span
from benchmarks.units import GROUP, Units
from mmvae.evaluation.table import key_of
from mmvae.metrics.estimates import Estimate, PerPatient, paired, summarise
from mmvae.metrics.scores import Scores

RULES = ("PoE", "MoE", "MoPoE")
Curves = dict[tuple[str, str], list[tuple[int, Estimate]]]  # (visibility, rule) → (series in the query, mAP)


def rules(units: Units, suite: Suite) -> tuple[list[str], Curves]:
    """PoE, MoE and MoPoE by number of series in the query: each value, and PoE minus it."""
    lines = [
        "| visibility | series in the query | PoE | MoE | MoPoE | PoE − MoE | PoE − MoPoE |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves: Curves = {}
    for visibility in ("random", "classical"):
        cells = {rule: tuned(suite, units.work, rule, visibility) for rule in RULES}
        for size in (1, 2, 3, 4):
            by_rule = {
                rule: of_size(lambda key, c=cell: units.mean(c, key), size)
                for rule, cell in cells.items()
                if cell is not None
            }
            rows = {rule: row for rule, row in by_rule.items() if row is not None}
            if not rows:
                continue
            values = {rule: summarise(row)["mAP"] for rule, row in rows.items()}
            for rule, value in values.items():
                curves.setdefault((visibility, rule), []).append((size, value))
            differences = {
                rule: paired(rows["PoE"], rows[rule])["mAP"]
                for rule in RULES[1:]
                if rule in rows and "PoE" in rows
            }
            cell = lambda rule, of: span(of[rule]) if rule in of else "not run"  # noqa: E731
            lines.append(
                f"| {visibility} | {size} | {cell('PoE', values)} | {cell('MoE', values)} | {cell('MoPoE', values)} | "
                f"{cell('MoE', differences)} | {cell('MoPoE', differences)} |"
            )
    return lines, curves


def of_size(row_of: Callable[[str], PerPatient | None], size: int) -> PerPatient | None:
    """The row of all queries by `size` of the four imaging series; None where one of them did not run.

    Args:
        row_of: Gives the row of a KEY.
        size: How many series.
    """
    count = lambda subset: sum(set(roles) <= set(subset) for roles in SERIES.values())  # noqa: E731
    parts = [row_of(key_of(subset)) for subset in SUBSETS if count(subset) == size]
    there = [part for part in parts if part is not None]
    return pooled(there) if there and len(there) == len(parts) else None


def tuned(suite: Suite, work: Path, fusion: str, visibility: str) -> Cell | None:
    """The suite's tuned cell of this rule on the phantom; None where the suite has none or a trial is missing."""
    for cell in suite.cells:
        if (cell.fusion, cell.visibility, cell.cohort) == (fusion, visibility, "phantom"):
            return suite.tuned(cell, work)
    return None


def pooled(parts: Iterable[PerPatient]) -> PerPatient:
    """A patient's scores averaged over the subsets that she takes part in."""
    tables: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for part in parts:
        for patient, value, chance in zip(part.patients, part.value.table, part.chance.table):
            tables.setdefault(patient, []).append((value, chance))
    names = tuple(sorted(tables))
    value, chance = (
        np.array([np.nanmean([pair[n] for pair in tables[name]], 0) for name in names]) for n in (0, 1)
    )
    return PerPatient(names, Scores(value), Scores(chance))


# ---- picture ------------------------------------------------------------------------------------------------------------

COLOUR = {"PoE": "#1b6ca8", "MoE": "#c8553d", "MoPoE": "#4f8a4c"}
OTHER = "#777"


def plot(curves: Curves, units: Units, path: Path) -> None:
    """Writes a picture of the subset curves with intervals, and of cost against quality."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _plot_curves(left, curves)
    _plot_cost(right, units)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plot_curves(axes: Any, curves: Curves) -> None:
    shift = {"PoE": -0.05, "MoE": 0.0, "MoPoE": 0.05}  # so that intervals do not cover each other
    for (visibility, rule), points in curves.items():
        sizes = np.array([size for size, _ in points]) + shift[rule]
        value, low, high = (
            np.array([getattr(of_size, name) for _, of_size in points]) for name in ("value", "low", "high")
        )
        axes.errorbar(
            sizes,
            value,
            [value - low, high - value],
            color=COLOUR[rule],
            capsize=3,
            marker="o",
            linestyle="-" if visibility == "random" else ":",
            label=f"{rule}, {visibility}",
        )
    axes.set(
        xlabel="imaging series in the query",
        ylabel="mAP",
        title="Fewer series, by rule and visibility",
        xticks=[1, 2, 3, 4],
    )
    if curves:
        axes.legend(fontsize=8)


def _plot_cost(axes: Any, units: Units) -> None:
    for rows, extra in units.all.values():
        if GROUP not in rows or not _of_the_default_task(extra.get("cell")):
            continue
        rule = extra["config"]["fusion"]["class_path"].rsplit(".", 1)[-1]
        marker = {"random": "o", "classical": "s"}[extra["cell"]["visibility"]]
        quality = np.nanmean(rows[GROUP].value.mAP)
        axes.scatter(extra["samples_per_second"], quality, color=COLOUR.get(rule, OTHER), marker=marker, s=30)
    for rule, shade in {**COLOUR, "other": OTHER}.items():
        axes.scatter([], [], color=shade, label=rule)
    axes.scatter([], [], color="k", marker="s", label="classical")
    axes.set(
        xlabel="training cases a second, one core",
        ylabel="mAP of the images",
        title="Cost against quality, report + findings, each training",
    )
    axes.legend(fontsize=8)


def _of_the_default_task(cell: Mapping[str, Any] | None) -> bool:
    """Whether a cell is a whole training on the phantom with report and findings."""
    if cell is None or (cell["cohort"], cell["supervision"]) != ("phantom", "report+findings"):
        return False
    return not (cell["roles"] or cell["epochs"] or cell["missing"])
