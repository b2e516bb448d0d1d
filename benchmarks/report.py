"""The units of a work folder → what a researcher reads: bars missed first, then rules, subsets, ablation, real cohorts, cost."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.benches import BENCHES
from benchmarks.cell import Cell
from benchmarks.headline import Headline
from benchmarks.setup import SERIES, SUBSETS
from benchmarks.suite import Suite
from benchmarks.table import CEILING, markdown, span, table
from benchmarks.units import GROUP, load
from mmvae.evaluation.evaluate import average, key_of
from mmvae.metrics.estimates import PerPatient, paired, summarise

SUITES = Path(__file__).parent / "suites"
RULES = ("PoE", "MoE", "MoPoE")
BEGIN, END = "<!-- mmvae-bench: begin -->", "<!-- mmvae-bench: end -->"


class Units:
    """Units by id, read once."""

    def __init__(self, work: Path):
        self.work = work
        self.all = {path.stem: load(path) for path in sorted((work / "units").glob("*.json"))}

    def seeds(self, cell: Cell) -> list[tuple[dict[str, PerPatient], dict]]:
        """The trainings of this cell with any seed."""
        found = [replace(cell, seed=seed).id for seed in range(1, 10)]
        return [self.all[i] for i in found if i in self.all]

    def mean(self, cell: Cell, key: str) -> PerPatient | None:
        """A patient's value averaged over seeds; None where nothing ran or the key is absent."""
        parts = [rows[key] for rows, _ in self.seeds(cell) if key in rows]
        return average(parts) if parts else None


def pooled(parts: Iterable[PerPatient]) -> PerPatient:
    """A patient's value averaged over the subsets that she takes part in."""
    values: dict[str, list] = {}
    for part in parts:
        for patient, value, chance in zip(part.patients, part.value, part.chance):
            values.setdefault(patient, []).append((value, chance))
    names = tuple(sorted(values))
    mean = lambda n: np.array([np.nanmean([pair[n] for pair in values[p]], 0) for p in names])  # noqa: E731
    return PerPatient(names, mean(0), mean(1))


def of_size(get, size: int) -> PerPatient | None:
    """By so many of the four imaging series in the query."""
    count = lambda subset: sum(set(roles) <= set(subset) for roles in SERIES.values())  # noqa: E731
    parts = [get(key_of(subset)) for subset in SUBSETS if count(subset) == size]
    return pooled(parts) if parts and all(part is not None for part in parts) else None


def tuned(suite: Suite, work: Path, fusion: str, visibility: str) -> Cell | None:
    """The suite's cell of this rule on the phantom, tuned; None where it has none or a trial is missing."""
    for cell in suite.cells:
        if (cell.fusion, cell.visibility, cell.cohort) == (fusion, visibility, "phantom"):
            return suite.tuned(cell, work)
    return None


# ---- sections ---------------------------------------------------------------------------------------------------------------


def rules(units: Units, suite: Suite) -> tuple[list[str], dict]:
    """PoE, MoE and MoPoE by number of series in the query: each value, and PoE minus it."""
    lines = [
        "| visibility | series in the query | PoE | MoE | MoPoE | PoE − MoE | PoE − MoPoE |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    curves: dict = {}
    for visibility in ("random", "classical"):
        cells = {rule: tuned(suite, units.work, rule, visibility) for rule in RULES}
        for size in (1, 2, 3, 4):
            got = {
                rule: of_size(lambda key, c=cell: units.mean(c, key), size)
                for rule, cell in cells.items()
                if cell is not None
            }
            got = {rule: row for rule, row in got.items() if row is not None}
            if not got:
                continue
            values = {rule: summarise(row.value, row.chance)["mAP"] for rule, row in got.items()}
            for rule, value in values.items():
                curves.setdefault((visibility, rule), []).append((size, value))
            differences = {
                rule: paired(got["PoE"], got[rule])["mAP"]
                for rule in RULES[1:]
                if rule in got and "PoE" in got
            }
            cell = lambda rule, of: span(of[rule]) if rule in of else "not run"  # noqa: E731
            lines.append(
                f"| {visibility} | {size} | {cell('PoE', values)} | {cell('MoE', values)} | {cell('MoPoE', values)} | "
                f"{cell('MoE', differences)} | {cell('MoPoE', differences)} |"
            )
    return lines, curves


def subsets(units: Units, default: Cell) -> tuple[list[str], dict[str, float], dict[str, float]]:
    """The default's mAP over the ceiling's, subset by subset, with the interval of the ratio over patients."""
    competing = {
        n: u for n, u in units.all.items() if n.startswith("ceiling-") and key_of(SUBSETS[-1]) in u[0]
    }
    lines = ["| series in the query | default | ceiling | ratio (95 %) |", "| --- | --- | --- | --- |"]
    if not competing:
        return lines, {}, {}
    best = max(competing, key=lambda n: competing[n][1]["validation_mAP"])
    ratios, lows = {}, {}
    own = {key_of(("t2",)): "dedicated-single", key_of(("dwi", "t2")): "dedicated-pair"}
    for subset in SUBSETS:
        key = key_of(subset)
        ours, ceiling = units.mean(default, key), competing[best][0][key]
        dedicated = units.all.get(own.get(key, ""))
        if ours is None:
            continue
        if dedicated is not None:
            row = dedicated[0][GROUP]
            keep = [row.patients.index(p) for p in ceiling.patients if p in row.patients]
            if np.nanmean(row.value[keep, 3]) > np.nanmean(ceiling.value[:, 3]):
                ceiling = PerPatient(tuple(row.patients[i] for i in keep), row.value[keep], row.chance[keep])
        ratio, low, high = ratio_interval(ours, ceiling)
        ratios[key], lows[key] = ratio, low
        a, b = summarise(ours.value, ours.chance)["mAP"], summarise(ceiling.value, ceiling.chance)["mAP"]
        lines.append(f"| {key} | {span(a)} | {span(b)} | {ratio:.2f} ({low:.2f}–{high:.2f}) |")
    return lines, ratios, lows


def ratio_interval(ours: PerPatient, ceiling: PerPatient, draws: int = 2000) -> tuple[float, float, float]:
    """Ratio of the mean mAPs, and its 95 % interval over resampled common patients."""
    common = sorted(set(ours.patients) & set(ceiling.patients))
    a = ours.value[[ours.patients.index(p) for p in common], 3]
    b = ceiling.value[[ceiling.patients.index(p) for p in common], 3]
    keep = ~(np.isnan(a) | np.isnan(b))
    a, b = a[keep], b[keep]
    index = np.random.default_rng(0).integers(len(a), size=(draws, len(a)))
    drawn = a[index].mean(1) / b[index].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(a.mean() / b.mean()), float(low), float(high)


def grid_rows(units: Units) -> list[str]:
    """Every cell that ran, whatever its suite: images mAP, validation, cost."""
    lines = [
        "| cell | trainings | images mAP (95 %) | validation | samples/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    seen = set()
    for rows, extra in units.all.values():
        if "cell" not in extra:
            continue
        cell = Cell.of(extra["cell"])
        family = replace(cell, seed=1).id
        if family in seen:
            continue
        seen.add(family)
        trained = units.seeds(cell)
        for key in [key for key in rows if key.split("|")[-1] == GROUP]:
            row = units.mean(cell, key)
            value = span(summarise(row.value, row.chance)["mAP"])
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
            f"| {objective} | {cell.supervision} | {len(units.seeds(cell))} | {span(summarise(row.value, row.chance)['mAP'])} | {difference} |"
        )
    return lines


def bars(
    lines: Sequence[Mapping], ratios: Mapping[str, float], lows: Mapping[str, float]
) -> list[tuple[str, bool, str]]:
    """Each bar: what it asks, whether it is met, and the figure."""
    value = {line["row"]: line["metrics"][GROUP]["mAP"]["value"] for line in lines}
    ceilings = [value[n] for n in (CEILING, f"{CEILING}, trained on images only") if n in value]
    made: list[tuple[str, bool, str]] = []
    if ceilings:
        for name, wanted in (("report+findings", 0.90), ("labels", 0.95)):
            if f"ours, {name}" in value:
                share = value[f"ours, {name}"] / max(ceilings)
                made.append(
                    (
                        f"images, {name}, at least {wanted:.2f} of the ceiling's mAP",
                        share >= wanted,
                        f"{share:.3f}",
                    )
                )
    if len(ratios) == len(SUBSETS):
        mean = float(np.mean(list(ratios.values())))
        made.append(("fifteen subsets, mean ratio to the ceiling at least .85", mean >= 0.85, f"{mean:.3f}"))
        worst = min(lows, key=lows.get)
        made.append(
            ("each subset's interval above .70", lows[worst] >= 0.70, f"lowest {lows[worst]:.2f} ({worst})")
        )
    beaten = [
        n
        for n in value
        if n.endswith((", own model", ", this model")) or n.startswith("late fusion") or n == "ours, none"
    ]
    lower = {}
    for line in lines:
        for key, m in line["metrics"].items():
            if key.startswith("paired/") and line["row"] in beaten:
                lower[line["row"]] = m["mAP"]["low"]
    if lower:
        worst = min(lower, key=lower.get)
        made.append(
            (
                "better than every single series, late fusion and no supervision (paired interval above 0)",
                lower[worst] > 0,
                f"smallest lower end {lower[worst]:.3f} ({worst})",
            )
        )
    return made


def against_neighbours(units: Units) -> tuple[list[str], list[tuple[str, bool, str]]]:
    """Each real cohort's cells, paired with its k-NN baseline that is best by validation; a bar for each row of the default."""
    lines = [
        "| cohort | target | cell | validation | images mAP (95 %) | k-NN | cell − k-NN |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    made = []
    for name, bench in BENCHES.items():
        if not bench.folds:
            continue
        cells = {
            replace(Cell.of(e["cell"]), seed=1, cohort_seed=1).id: Cell.of(e["cell"])
            for _, e in units.all.values()
            if e.get("cell", {}).get("cohort") == name and not e["cell"]["epochs"]
        }
        for target in bench.targets:
            key = f"{target}|{GROUP}" if len(bench.targets) > 1 else GROUP
            for family, cell in sorted(cells.items()):
                ours, base, at = [], [], []
                for seed in range(1, 10):
                    unit, knn = (
                        units.all.get(replace(cell, cohort_seed=seed).id),
                        units.all.get(f"knn-{name}-{seed}"),
                    )
                    if unit and knn:
                        ours.append(unit[0][key])
                        at.append(unit[1]["validation_mAP"])
                        base.append(knn[0][f"{target}|best"])
                if not ours:
                    continue
                a, b = average(ours), average(base)
                difference = paired(a, b)["mAP"]
                lines.append(
                    f"| {name} | {target} | {family[:-2]} ({len(ours)} × {bench.folds} folds) | {np.mean(at):.3f} | {span(summarise(a.value, a.chance)['mAP'])} | {span(summarise(b.value, b.chance)['mAP'])} | {span(difference)} |"
                )
                if replace(cell, cohort_seed=1, seed=1) == Cell(cohort=name, supervision=cell.supervision):
                    met = difference["low"] > -0.10 and difference["value"] > -0.02
                    made.append(
                        (
                            f"{name}, {target}, {cell.supervision}: minus k-NN above −.02, lower end above −.10",
                            met,
                            span(difference),
                        )
                    )
    return lines, made


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


def cost(results: Path) -> list[tuple[str, bool, str]]:
    """What `benchmarks.speed` measured against its limits, a line a thread setting; the rule with all components has none."""
    made = []
    for one in _rows(results / "speed.jsonl"):
        threads, shares = "1 thread" if one["threads"] == "1" else f"{one['threads']} threads", {}
        for name, m in one["measurement"].items():
            if "limit" in m:
                low, high = m["quartiles"]
                made.append((f"{name}, {threads}: at most {m['limit']} × its floor", m["ratio"] <= m["limit"], f"{m['ratio']:.2f} (quartiles {low:.2f}–{high:.2f})"))  # fmt: skip
            elif name.startswith("fusion + bound"):
                shares = {rule: x["share of a step"] for rule, x in m.items() if "all" not in rule}
        for rule, share in shares.items():
            made.append((f"{rule}, {threads}: fusion + bound at M = 8, D = 512 below 5 % of a step", share < 0.05, f"{share:.1%}"))  # fmt: skip
    return made


def twins(results: Path) -> list[str]:
    """What `benchmarks.twins` measured, if it ran."""
    every = _rows(results / "twins.jsonl")
    if not every:
        return ["Not run."]
    names = list(every[0]["measurement"])
    lines = [f"| cell | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    for one in every:
        lines.append(f"| {one['cell']} | {' | '.join(span(one['measurement'][n]) for n in names)} |")
    return lines


def other_phantoms(results: Path) -> dict[str, list[dict]]:
    """By phantom seed: the rows of `mmvae-bench phantom --seed S --results RESULTS/headline-S`, if it ran."""
    paths = sorted(results.glob("headline-*.jsonl"))
    return {path.stem.removeprefix("headline-"): _rows(path) for path in paths}


def _rows(path: Path) -> list[dict]:
    """Of a JSONL file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ---- plots and files ----------------------------------------------------------------------------------------------------------


def plots(curves: Mapping, units: Units, folder: Path) -> list[Path]:
    """Subset curves with intervals, and cost against quality."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colour = {"PoE": "#1b6ca8", "MoE": "#c8553d", "MoPoE": "#4f8a4c"}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for (visibility, rule), points in curves.items():
        x = np.array([p[0] for p in points]) + {"PoE": -0.05, "MoE": 0.0, "MoPoE": 0.05}[rule]
        m = [p[1] for p in points]
        low, high = [v["value"] - v["low"] for v in m], [v["high"] - v["value"] for v in m]
        left.errorbar(x, [v["value"] for v in m], [low, high], color=colour[rule], capsize=3, marker="o",
                      linestyle="-" if visibility == "random" else ":", label=f"{rule}, {visibility}")  # fmt: skip
    left.set(
        xlabel="imaging series in the query",
        ylabel="mAP",
        title="Fewer series, by rule and visibility",
        xticks=[1, 2, 3, 4],
    )
    if curves:
        left.legend(fontsize=8)
    left.spines[["top", "right"]].set_visible(False)
    for _, (rows, extra) in units.all.items():
        if (
            "cell" in extra
            and extra["cell"]["cohort"] == "phantom"
            and GROUP in rows
            and extra["cell"]["supervision"] == "report+findings"
            and not (extra["cell"]["roles"] or extra["cell"]["epochs"] or extra["cell"]["missing"])
        ):
            rule = extra["config"]["fusion"]["class_path"].rsplit(".", 1)[-1]
            right.scatter(extra["samples_per_second"], np.nanmean(rows[GROUP].value[:, 3]), color=colour.get(rule, "#777"),
                          marker={"random": "o", "classical": "s"}[extra["cell"]["visibility"]], s=30)  # fmt: skip
    for rule, shade in {**colour, "other": "#777"}.items():
        right.scatter([], [], color=shade, label=rule)
    right.scatter([], [], color="k", marker="s", label="classical")
    right.set(
        xlabel="training cases a second, one core",
        ylabel="mAP of the images",
        title="Cost against quality, report + findings, each training",
    )
    right.legend(fontsize=8)
    right.spines[["top", "right"]].set_visible(False)
    path = folder / "report.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return [path]


STYLE = """body{font:15px/1.5 system-ui;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}
img{max-width:100%}"""


def _html(text: str, pictures: Sequence[Path]) -> str:
    """One file, pictures within."""
    from markdown import markdown as converted

    body = converted(text, extensions=["tables"])
    for path in pictures:
        body = body.replace(
            f'src="{path.name}"',
            f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"',
        )
    return f"<!doctype html><meta charset=utf-8><title>mmvae benchmark report</title><style>{STYLE}</style>\n{body}\n"


def write(work: Path, results: Path, readme: Path | None) -> None:
    """report.md, report.html and report.png in `results`; the README's table between its two markers."""
    results.mkdir(parents=True, exist_ok=True)
    units, suite = Units(work), Suite.read(SUITES / "tier1.yaml")
    lines = []
    if (work / "cohort").exists():
        headline = Headline(1, work, 3, BENCHES["phantom"].budget.epochs)
        lines = table(work, headline.cohort, lambda *name: headline.cell(*name).id)
    of_rules, curves = rules(units, suite)
    of_subsets, ratios, lows = subsets(units, Cell())
    of_real, real_bars = against_neighbours(units)
    again = other_phantoms(results)
    asked = bars(lines, ratios, lows)
    for seed, rows in again.items():
        asked += [
            (f"phantom of seed {seed}, {name}", met, figure) for name, met, figure in bars(rows, {}, {})
        ]
    asked += [*real_bars, *cost(results)]
    pictures = plots(curves, units, results)
    notes = results / "report_notes.md"
    text = ["# Benchmark report", ""]
    missed = [bar for bar in asked if not bar[1]]
    text += ["Bars missed:" if missed else "No bar that was measured is missed.", ""]
    text += [f"- {name}: {figure}" for name, _, figure in missed]
    text += ["", "Bars met:", "", *[f"- {name}: {figure}" for name, met, figure in asked if met], ""]
    text += [notes.read_text().strip(), ""] if notes.exists() else []
    text += [
        "## PoE, MoE or MoPoE: by number of series in the query",
        "",
        *of_rules,
        "",
        "![Subset curves; cost against quality](report.png)",
        "",
    ]
    text += [
        "## One model for every query: the fifteen subsets of the four imaging series",
        "",
        *of_subsets,
        "",
    ]
    text += ["## Headline: the images, by supervision", "", markdown(lines) if lines else "Not run.", ""]
    for seed, rows in again.items():
        text += [f"## The same on a phantom of seed {seed}", "", markdown(rows), ""]
    text += ["## Ablation", "", *ablation(units, Suite.read(SUITES / "ablation.yaml")), ""]
    text += ["## Real cohorts against k-NN", "", *of_real, ""]
    text += ["## Five views of a digit (PolyMNIST's construction)", "", *digits(units), ""]
    text += ["## The same patients on another scanner", "", *twins(results), ""]
    text += ["## Every cell", "", *grid_rows(units), ""]
    whole = "\n".join(text)
    (results / "report.md").write_text(whole)
    (results / "report.html").write_text(_html(whole, pictures))
    (results / "headline.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if readme is not None:
        written = readme.read_text()
        before, rest = written.split(BEGIN)
        after = rest.split(END)[1]
        readme.write_text(before + BEGIN + "\n" + "\n".join(of_rules) + "\n" + END + after)
    print("\n".join(text[: 4 + len(asked) + 4]))
