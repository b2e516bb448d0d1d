"""What the units of a work folder show, for a researcher: bars missed first, then rules, subsets, ablation, real cohorts, cost."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.benches import BENCHES
from benchmarks.cell import Cell
from benchmarks.headline import Headline
from benchmarks.setup import PAIR, SERIES, SUBSETS
from benchmarks.suite import Suite
from benchmarks.table import Unit, markdown, shares_of_ceiling, span, table
from benchmarks.units import GROUP, load
from mmvae.evaluation.evaluate import average, key_of
from mmvae.metrics.estimates import DRAWS, Estimate, PerPatient, paired, read_estimate, summarise
from mmvae.metrics.scores import Scores

SUITES = Path(__file__).parent / "suites"
RULES = ("PoE", "MoE", "MoPoE")
# Subsets whose ceiling has a training of its own, and its unit.
DEDICATED = {key_of(("t2",)): "dedicated-single", key_of(PAIR): "dedicated-pair"}
BEGIN, END = "<!-- mmvae-bench: begin -->", "<!-- mmvae-bench: end -->"

Curves = dict[tuple[str, str], list[tuple[int, Estimate]]]  # (visibility, rule) → (series in the query, mAP)
Bar = tuple[str, bool, str]  # what it asks, whether it is met, and the figure


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


def mAP_of(row: PerPatient) -> Estimate:
    """The row's mAP with its interval."""
    return summarise(row)["mAP"]


def of_size(row_of: Callable[[str], PerPatient | None], size: int) -> PerPatient | None:
    """The row of queries by so many of the four imaging series; `row_of` gives that of a KEY."""
    count = lambda subset: sum(set(roles) <= set(subset) for roles in SERIES.values())  # noqa: E731
    parts = [row_of(key_of(subset)) for subset in SUBSETS if count(subset) == size]
    there = [part for part in parts if part is not None]
    return pooled(there) if there and len(there) == len(parts) else None


def tuned(suite: Suite, work: Path, fusion: str, visibility: str) -> Cell | None:
    """The suite's cell of this rule on the phantom, tuned; None where it has none or a trial is missing."""
    for cell in suite.cells:
        if (cell.fusion, cell.visibility, cell.cohort) == (fusion, visibility, "phantom"):
            return suite.tuned(cell, work)
    return None


# ---- sections ---------------------------------------------------------------------------------------------------------------


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
            values = {rule: mAP_of(row) for rule, row in rows.items()}
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
    """A line per cell that ran, whatever its suite: images mAP, validation, cost."""
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
            row = units.mean(cell, key)
            value = span(mAP_of(row))
            at = np.mean([e["validation_mAP"] for _, e in trained])
            speed = np.mean([e["samples_per_second"] for _, e in trained])
            target = f" ({key.split('|')[0]})" if "|" in key else ""
            lines.append(f"| {family[:-2]}{target} | {len(trained)} | {value} | {at:.3f} | {speed:.1f} |")
    return lines


def ablation(units: Units, suite: Suite) -> list[str]:
    """The path ELBO → + report → + findings → + alignment and each left out, by mAP of the images."""
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


def bars(lines: Sequence[Mapping], ratios: Mapping[str, float], lows: Mapping[str, float]) -> list[Bar]:
    """The bars that a headline table and the subsets' ratios to the ceiling are held to."""
    return [*_bars_of_ceiling(lines), *_bars_of_subsets(ratios, lows), *_bar_of_rivals(lines)]


def _bars_of_ceiling(lines: Sequence[Mapping]) -> list[Bar]:
    wanted = {"ours, report+findings": 0.90, "ours, labels": 0.95}
    return [
        (
            f"images, {row.removeprefix('ours, ')}, at least {wanted[row]:.2f} of the ceiling's mAP",
            share >= wanted[row],
            f"{share:.3f}",
        )
        for row, share in shares_of_ceiling(lines).items()
    ]


def _bars_of_subsets(ratios: Mapping[str, float], lows: Mapping[str, float]) -> list[Bar]:
    if len(ratios) < len(SUBSETS):
        return []
    mean = float(np.mean(list(ratios.values())))
    worst = min(lows, key=lambda key: lows[key])
    return [
        ("fifteen subsets, mean ratio to the ceiling at least .85", mean >= 0.85, f"{mean:.3f}"),
        ("each subset's interval above .70", lows[worst] >= 0.70, f"lowest {lows[worst]:.2f} ({worst})"),
    ]


def _bar_of_rivals(lines: Sequence[Mapping]) -> list[Bar]:
    """The default against each single series, late fusion and no supervision."""
    low_of = {}
    for line in lines:
        name = line["row"]
        single = name.endswith((", own model", ", this model"))
        if not (single or name.startswith("late fusion") or name == "ours, none"):
            continue
        for key, of_metric in line["metrics"].items():
            if key.startswith("paired/"):
                low_of[name] = of_metric["mAP"]["low"]
    if not low_of:
        return []
    worst = min(low_of, key=lambda name: low_of[name])
    asked = "better than every single series, late fusion and no supervision (paired interval above 0)"
    return [(asked, low_of[worst] > 0, f"smallest lower end {low_of[worst]:.3f} ({worst})")]


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


def cost(results: Path) -> list[Bar]:
    """What `benchmarks.speed` measured against its limits, per number of threads; the rule with all components has no limit."""
    asked: list[Bar] = []
    for line in _rows(results / "speed.jsonl"):
        threads, shares = "1 thread" if line["threads"] == "1" else f"{line['threads']} threads", {}
        for name, m in line["measurement"].items():
            if "limit" in m:
                low, high = m["quartiles"]
                asked.append((f"{name}, {threads}: at most {m['limit']} × its floor", m["ratio"] <= m["limit"], f"{m['ratio']:.2f} (quartiles {low:.2f}–{high:.2f})"))  # fmt: skip
            elif name.startswith("fusion + bound"):
                shares = {rule: x["share of a step"] for rule, x in m.items() if "all" not in rule}
        for rule, share in shares.items():
            asked.append((f"{rule}, {threads}: fusion + bound at M = 8, D = 512 below 5 % of a step", share < 0.05, f"{share:.1%}"))  # fmt: skip
    return asked


def twins(results: Path) -> list[str]:
    """What `benchmarks.twins` measured, if it ran."""
    every = _rows(results / "twins.jsonl")
    if not every:
        return ["Not run."]
    names = list(every[0]["measurement"])
    lines = [f"| cell | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for line in every:
        values = " | ".join(span(read_estimate(line["measurement"][name])) for name in names)
        lines.append(f"| {line['cell']} | {values} |")
    return lines


def other_phantoms(results: Path) -> dict[str, list[dict]]:
    """By phantom seed: the rows of `mmvae-bench phantom --seed S --results RESULTS/headline-S`, if it ran."""
    paths = sorted(results.glob("headline-*.jsonl"))
    return {path.stem.removeprefix("headline-"): _rows(path) for path in paths}


def _rows(path: Path) -> list[dict]:
    """Of a JSONL file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---- plots and files ----------------------------------------------------------------------------------------------------------


COLOUR = {"PoE": "#1b6ca8", "MoE": "#c8553d", "MoPoE": "#4f8a4c"}
OTHER = "#777"


def plot(curves: Curves, units: Units, path: Path) -> None:
    """A picture of the subset curves with intervals, and of cost against quality."""
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


STYLE = """body{font:15px/1.5 system-ui;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}
img{max-width:100%}"""


def _html(text: str, picture: Path) -> str:
    """The report as one file, its picture within."""
    from markdown import markdown as converted

    data = base64.b64encode(picture.read_bytes()).decode()
    body = converted(text, extensions=["tables"]).replace(
        f'src="{picture.name}"', f'src="data:image/png;base64,{data}"'
    )
    return f"<!doctype html><meta charset=utf-8><title>mmvae benchmark report</title><style>{STYLE}</style>\n{body}\n"


def write(work: Path, results: Path, readme: Path | None) -> None:
    """Writes report.md, report.html, report.png and headline.jsonl, and prints which bars are missed.

    Args:
        work: Folder of the units.
        results: Where the files go; other results in it are reported too.
        readme: Whose table between the two markers is refreshed.
    """
    results.mkdir(parents=True, exist_ok=True)
    units, suite = Units(work), Suite.read(SUITES / "tier1.yaml")
    lines = _headline(work)
    of_rules, curves = rules(units, suite)
    of_subsets, ratios, lows = subsets(units, Cell())
    of_real, bars_of_real = against_neighbours(units)
    again = other_phantoms(results)
    asked = bars(lines, ratios, lows)
    for seed, rows in again.items():
        named = bars(rows, {}, {})
        asked += [(f"phantom of seed {seed}, {name}", met, figure) for name, met, figure in named]
    verdict = _verdict([*asked, *bars_of_real, *cost(results)])
    notes = results / "report_notes.md"
    sections = {
        "PoE, MoE or MoPoE: by number of series in the query": [
            *of_rules,
            "",
            "![Subset curves; cost against quality](report.png)",
        ],
        "One model for every query: the fifteen subsets of the four imaging series": of_subsets,
        "Headline: the images, by supervision": [markdown(lines) if lines else "Not run."],
        **{f"The same on a phantom of seed {seed}": [markdown(rows)] for seed, rows in again.items()},
        "Ablation": ablation(units, Suite.read(SUITES / "ablation.yaml")),
        "Real cohorts against k-NN": of_real,
        "Five views of a digit (PolyMNIST's construction)": digits(units),
        "The same patients on another scanner": twins(results),
        "Every cell": grid_rows(units),
    }
    text = [*verdict, *([notes.read_text().strip(), ""] if notes.exists() else [])]
    for title, section in sections.items():
        text += [f"## {title}", "", *section, ""]
    whole = "\n".join(text)
    plot(curves, units, results / "report.png")
    (results / "report.md").write_text(whole)
    (results / "report.html").write_text(_html(whole, results / "report.png"))
    (results / "headline.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if readme is not None:
        _refresh(readme, of_rules)
    print("\n".join(verdict))


def _headline(work: Path) -> list[dict[str, Any]]:
    """The lines of the headline table, where its cohort is there."""
    if not (work / "cohort").exists():
        return []
    headline = Headline(1, work, 3, BENCHES["phantom"].budget.epochs)
    return table(work, headline.cohort, lambda *name: headline.cell(*name).id)


def _verdict(asked: Sequence[Bar]) -> list[str]:
    """The report's first lines: bars missed, then bars met."""
    missed = [f"- {name}: {figure}" for name, met, figure in asked if not met]
    met = [f"- {name}: {figure}" for name, met, figure in asked if met]
    first = "Bars missed:" if missed else "No bar that was measured is missed."
    return ["# Benchmark report", "", first, "", *missed, "", "Bars met:", "", *met, ""]


def _refresh(readme: Path, lines: Sequence[str]) -> None:
    """Puts the table between the two markers."""
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)
