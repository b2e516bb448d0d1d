"""The bars that results are held to: what each asks, whether it is met, and the figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.setup import SUBSETS
from benchmarks.table import shares_of_ceiling
from benchmarks.units import read_lines

Bar = tuple[str, bool, str]  # what it asks, whether it is met, and the figure


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


def cost(results: Path) -> list[Bar]:
    """What `benchmarks.speed` measured against its limits, per number of threads; the rule with all components has no limit."""
    asked: list[Bar] = []
    for line in read_lines(results / "speed.jsonl"):
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
