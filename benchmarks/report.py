"""What the units of a work folder show, for a researcher: bars missed first, then rules, subsets, ablation, real cohorts, cost."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, bars, cost
from benchmarks.benches import BENCHES
from benchmarks.cell import Cell
from benchmarks.curves import plot, rules
from benchmarks.headline import Headline
from benchmarks.sections import ablation, against_neighbours, digits, grid_rows, subsets, twins
from benchmarks.suite import Suite
from benchmarks.table import markdown, table
from benchmarks.units import Units, read_lines

SUITES = Path(__file__).parent / "suites"
BEGIN, END = "<!-- mmvae-bench: begin -->", "<!-- mmvae-bench: end -->"
STYLE = """body{font:15px/1.5 system-ui;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left}
img{max-width:100%}"""


def _html(text: str, picture: Path) -> str:
    """The report as one HTML file that holds its picture."""
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


def other_phantoms(results: Path) -> dict[str, list[dict]]:
    """The rows of `mmvae-bench phantom --seed S --results RESULTS/headline-S`, by S; none where it did not run."""
    paths = sorted(results.glob("headline-*.jsonl"))
    return {path.stem.removeprefix("headline-"): read_lines(path) for path in paths}


def _headline(work: Path) -> list[dict[str, Any]]:
    """The lines of the headline table; none where its cohort is not there."""
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
