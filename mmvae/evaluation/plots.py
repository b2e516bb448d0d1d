"""Pictures of an evaluation: the subset curve, the metric by class, and the space in two dimensions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmvae.metrics.estimates import Estimate

Estimates = Mapping[str, Mapping[str, Estimate]]


def subset_curve(estimates: Estimates, path: Path, metric: str = "mAP") -> None:
    """Each subset's value over its number of roles, their mean, `full`, and chance."""
    plt = _pyplot()
    points = [
        (key.count("+") + 1, estimates[key][metric]) for key in estimates if "/" not in key and key != "full"
    ]
    points = [(n, m) for n, m in points if m.value is not None]
    figure, axes = plt.subplots(figsize=(6.4, 4))
    sizes = sorted({n for n, _ in points})
    jitter = np.random.default_rng(0).uniform(-0.12, 0.12, len(points))
    axes.scatter(
        [n + j for (n, _), j in zip(points, jitter)],
        [m.value for _, m in points],
        s=18,
        color="#4878a8",
        alpha=0.6,
        label="one subset",
    )
    axes.plot(
        sizes,
        [np.mean([m.value for n, m in points if n == s]) for s in sizes],
        color="#1f3a5f",
        marker="o",
        label="mean",
    )
    axes.plot(
        sizes,
        [np.mean([m.chance for n, m in points if n == s]) for s in sizes],
        color="#999999",
        ls=":",
        label="chance",
    )
    full = estimates["full"][metric]
    if full.value is not None and full.low is not None and full.high is not None:
        axes.axhspan(full.low, full.high, color="#c06020", alpha=0.15)
        axes.axhline(full.value, color="#c06020", lw=1, label="full, 95 %")
    axes.set(xlabel="roles in the query", ylabel=metric, xticks=sizes, ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def by_class(estimates: Estimates, path: Path, metric: str = "P@5") -> None:
    """The metric of each class's queries with its interval, and chance."""
    plt = _pyplot()
    found = {
        key.split("/")[1]: m[metric]
        for key, m in estimates.items()
        if key.startswith("class/") and key.endswith("/full")
    }
    found = {name: m for name, m in found.items() if m.value is not None}
    if not found:
        return
    names = sorted(found, key=lambda n: found[n].value)
    figure, axes = plt.subplots(figsize=(6.4, 0.6 + 0.32 * len(names)))
    value = np.array([found[n].value for n in names])
    error = np.abs(np.array([[found[n].low, found[n].high] for n in names]).T - value)
    axes.barh(names, value, xerr=error, color="#4878a8", ecolor="#1f3a5f", height=0.6)
    axes.plot([found[n].chance for n in names], names, "|", color="#c06020", ms=12, label="chance")
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
    """The posterior means in two dimensions, coloured by class."""
    plt = _pyplot()
    xy = plane(means)
    figure, axes = plt.subplots(figsize=(7.2, 4.8))
    names = sorted(set(classes))
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, max(len(names), 2)))
    for name, colour in zip(names, colours):
        mine = np.array([c == name for c in classes])
        axes.scatter(*xy[mine].T, s=16, color=colour, label=name)
    axes.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second")
    axes.legend(frameon=False, fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    _save(figure, path)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)
