"""Plots of an evaluation: the subset curve, the metric by class, and the space in two dimensions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmvae.metrics.estimates import Estimate

Estimates = Mapping[str, Mapping[str, Estimate]]
NO_CHANCE = float("nan")  # matplotlib does not draw it


def subset_curve(estimates: Estimates, path: Path, metric: str = "mAP") -> None:
    """Writes a plot of each subset's value over its number of roles, with their mean, `full`, and chance.

    Args:
        estimates: Estimates by KEY and metric, including `full`.
        path: Path of the picture.
        metric: The metric that is drawn.
    """
    plt = _pyplot()
    by_size: dict[int, list[tuple[float, float]]] = {}
    for key, of_key in estimates.items():
        value, chance = of_key[metric].value, of_key[metric].chance
        if "/" not in key and key != "full" and value is not None:
            size = key.count("+") + 1
            by_size.setdefault(size, []).append((value, NO_CHANCE if chance is None else chance))
    figure, axes = plt.subplots(figsize=(6.4, 4))
    sizes = sorted(by_size)
    values = [(size, value) for size in sizes for value, _ in by_size[size]]
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(values))
    x = [size + j for (size, _), j in zip(values, jitter)]
    axes.scatter(x, [value for _, value in values], s=18, color="#4878a8", alpha=0.6, label="one subset")
    mean, chance = ([np.mean([pair[part] for pair in by_size[size]]) for size in sizes] for part in (0, 1))
    axes.plot(sizes, mean, color="#1f3a5f", marker="o", label="mean")
    axes.plot(sizes, chance, color="#999999", ls=":", label="chance")
    full = estimates["full"][metric]
    if full.value is not None and full.low is not None and full.high is not None:
        axes.axhspan(full.low, full.high, color="#c06020", alpha=0.15)
        axes.axhline(full.value, color="#c06020", lw=1, label="full, 95 %")
    axes.set(xlabel="roles in the query", ylabel=metric, xticks=sizes, ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def by_class(estimates: Estimates, path: Path, metric: str = "P@5") -> None:
    """Writes a plot of the metric for the queries of each class, with interval and chance; no plot if no class is known.

    Args:
        estimates: Estimates by KEY and metric.
        path: Path of the picture.
        metric: The metric that is drawn.
    """
    plt = _pyplot()
    bars: list[tuple[float, float, float, float, str]] = []
    for key, of_key in estimates.items():
        m = of_key[metric]
        if not (key.startswith("class/") and key.endswith("/full")):
            continue
        if m.value is not None and m.low is not None and m.high is not None:
            chance = NO_CHANCE if m.chance is None else m.chance
            bars.append((m.value, m.low, m.high, chance, key.split("/")[1]))
    if not bars:
        return
    bars.sort(key=lambda bar: bar[0])
    value, low, high, chance = (np.array([bar[n] for bar in bars]) for n in range(4))
    names = [bar[4] for bar in bars]
    figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.32 * len(names)))
    error = np.abs(np.stack([low, high]) - value)
    axes.barh(names, value, xerr=error, color="#4878a8", ecolor="#1f3a5f", height=0.6)
    axes.plot(chance, names, "|", color="#c06020", ms=12, label="chance")
    axes.set(xlabel=metric, xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)


def plane(means: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N 2"]:
    """The two leading principal components of the means' directions (what cosine compares)."""
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    centred = unit - unit.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T


def space_map(means: Float[np.ndarray, "N D"], classes: Sequence[str], path: Path) -> None:
    """Writes a map of the posterior means in two dimensions, coloured by class."""
    plt = _pyplot()
    xy = plane(means)
    figure, axes = plt.subplots(figsize=(7.2, 4.8))
    names = sorted(set(classes))
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, max(len(names), 2)))
    for name, colour in zip(names, colours):
        of_class = np.array([c == name for c in classes])
        axes.scatter(*xy[of_class].T, s=16, color=colour, label=name)
    axes.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
    axes.legend(frameon=False, fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)
