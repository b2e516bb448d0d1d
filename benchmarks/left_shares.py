"""The shares of identifiers left and of words taken, over many reports, with intervals and the issue's limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.what_is_left import Outcome
from benchmarks.written_reports import Report

# Of what the header holds, with its help; of everything planted, without; of words and numbers that identify nobody.
LIMITS = {"with headers": 0.002, "without": 0.05, "words": 0.003}


@dataclass(frozen=True)
class Measured:
    """A report and what cleaning left and took of it: with its header's help, and without."""

    report: Report
    helped: Outcome
    alone: Outcome


def ratio(pairs: Sequence[tuple[int, int]]) -> float:
    """Share of (found, of) summed over reports."""
    return sum(found for found, _ in pairs) / max(1, sum(of for _, of in pairs))


def share(pairs: Sequence[tuple[int, int]], seed: int = 0) -> dict[str, float]:
    """The ratio of (found, of) with the 95 % interval of 2,000 bootstraps of whole reports.

    Where nothing is found, a bootstrap has no width: the upper end is then 3 / n (Hanley & Lippman-Hand 1983).
    """
    found, of = np.array(pairs, float).T
    rng = np.random.default_rng(seed)
    drawn = (rng.multinomial(len(of), np.full(len(of), 1 / len(of))) for _ in range(2000))
    low, high = np.quantile([found @ d / max(of @ d, 1) for d in drawn], [0.025, 0.975])
    high = high if found.sum() else min(1, 3 / of.sum())
    return {"share": _short(ratio(pairs)), "low": _short(low), "high": _short(high), "of": int(of.sum())}


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def left(
    measured: Sequence[Measured], way: str, chosen: Callable = lambda identifier: True
) -> list[tuple[int, int]]:
    """(left, planted) of each report, of the chosen identifiers, `way` being `helped` or `alone`."""
    pairs = []
    for m in measured:
        those = [x for i, x in zip(m.report.identifiers, getattr(m, way).left) if chosen(i)]
        pairs.append((sum(those), len(those)))
    return pairs


def words(measured: Sequence[Measured], way: str) -> list[tuple[int, int]]:
    """(gone, all) of the words and numbers outside each report's identifiers."""
    return [(len(o.gone), o.words) for o in (getattr(m, way) for m in measured)]


def clinical(measured: Sequence[Measured], way: str) -> list[tuple[int, int]]:
    """(gone, all) of the words and numbers of each report's clinical sentences, labels and headings left out."""
    return [(o.clinical_gone, o.clinical_words) for o in (getattr(m, way) for m in measured)]


def table_of(measured: Sequence[Measured], attribute: str) -> dict[str, dict]:
    """By kind or culture: how many were planted, and the shares left with headers and without."""
    table = {}
    for value in sorted({getattr(i, attribute) for m in measured for i in m.report.identifiers}):
        helped, alone = (
            left(measured, way, lambda i, value=value: getattr(i, attribute) == value)
            for way in ("helped", "alone")
        )
        table[value] = {"planted": sum(of for _, of in helped), "with headers": _short(ratio(helped)), "without": _short(ratio(alone))}  # fmt: skip
    return table


def check_measure(raw: Sequence[Measured], blank: Sequence[Measured]) -> dict[str, float]:
    """The control's shares; raises where the measure misses something planted, or finds something in nothing."""
    found, taken = ratio(left(raw, "helped")), ratio(words(raw, "helped"))
    in_blank, taken_blank = ratio(left(blank, "helped")), ratio(words(blank, "helped"))
    if (found, taken, in_blank, taken_blank) != (1, 0, 0, 1):
        raise ValueError(
            f"the measure finds {found} of what was planted and misses {taken} of the words in texts as they are "
            f"(expected 1 and 0), and {in_blank} and {taken_blank} in blanks (expected 0 and 1): mend benchmarks/what_is_left.py first"
        )
    return {"found in the texts as they are": found, "found in blanks": in_blank}


def shares_of(measured: Sequence[Measured], real: Sequence[Sequence[tuple[int, int]]] | None) -> dict:
    """Every share of a row. `held` counts the identifiers alone that the header holds in some spelling.

    Args:
        measured: Of the invented reports.
        real: For each real report (gone, words) with a stranger's header and without.
    """
    row: dict = {
        "left with headers": share(left(measured, "helped")),
        "left with headers, held": share(left(measured, "helped", lambda i: i.held)),
        "left without": share(left(measured, "alone")),
    }
    for name, way in (("with headers", "helped"), ("without", "alone")):
        row[f"words taken {name}"] = share(words(measured, way))
        row[f"clinical words taken {name}"] = share(clinical(measured, way))
    if real:
        row["openi words taken with a stranger's headers"] = share([helped for helped, _ in real])
        row["openi words taken without"] = share([alone for _, alone in real])
    return row | {"kinds": table_of(measured, "kind"), "cultures": table_of(measured, "culture")}


def within_limits(row: dict) -> bool:
    """Whether the issue's bars hold; says which do not."""
    bars = {name: LIMITS["words"] for name in row if "words taken" in name}
    bars |= {"left with headers, held": LIMITS["with headers"], "left without": LIMITS["without"]}
    for name, limit in bars.items():
        print(f"{name}: {100 * row[name]['share']:.2f} % (limit {100 * limit} %)")
    return all(row[name]["share"] <= limit for name, limit in bars.items())
