"""Writes a self-contained HTML page of example queries and their nearest cases, with the metric table, curve and map."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvae.atomic import write_atomically
from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.metrics.estimates import read_estimate
from mmvae.metrics.scores import METRICS
from mmvae.model import MMVAE
from mmvae.retrieval.search import Neighbour, Result
from mmvae.serve.show import STYLE, as_html

_MORE = """body{max-width:94rem}.cases{display:flex;gap:.7rem;overflow-x:auto;padding-bottom:.6rem}.case{flex:1 0 12.5rem;border:1px solid #d8dee4;border-radius:.4rem;padding:.6rem;font-size:.85rem}
.case.query{border:2px solid #1f5f9f}.case h3{font-size:.95rem;margin:0 0 .3rem}.pictures{display:grid;grid-template-columns:1fr 1fr;gap:.25rem}
.pictures figure{margin:0}.pictures img{width:100%;height:auto}.pictures figcaption{font-size:.72rem;color:#5b6874}.same{color:#17663a;font-weight:600}
.other{color:#8a3b12}code{background:#f1f4f7;padding:.1rem .3rem;border-radius:.2rem}pre{background:#f1f4f7;padding:.7rem;overflow-x:auto}
.plots img{max-width:100%;image-rendering:auto;background:#fff}.absent{aspect-ratio:1;display:flex;align-items:center;justify-content:center;background:#eef1f4;color:#5b6874}"""


NO_SUBSET = ("full", "protocol", "fingerprint")  # keys of metrics.json without a slash or plus


@dataclass(frozen=True)
class Answer:
    """A query case and what the search found."""

    case: Case
    result: Result


@dataclass(frozen=True)
class Words:
    """The text of a page.

    Args:
        title: Title of the page.
        lead: Its first paragraph, as HTML.
        command: Commands by which a reader can search.
        target: Label that decides whether a neighbour is marked as the same or other.
    """

    title: str
    lead: str
    command: str
    target: str


def write_page(
    out: Path,
    words: Words,
    model: MMVAE,
    cohort: Cohort,
    answers: Sequence[Answer],
    metrics: Mapping[str, Any],
    plots: Mapping[str, Path],
) -> None:
    """Writes the page with its pictures and plots embedded.

    Args:
        out: Path of the HTML file; an existing one is replaced.
        words: Title, lead, command and target.
        model: The model whose roles are shown.
        cohort: The cohort with the queries and their neighbours.
        answers: Example queries with their results.
        metrics: Content of metrics.json.
        plots: PNG files by caption; missing files are left out.
    """
    data = CaseDataset(cohort, list(cohort.cases), model.modalities, model.answer_roles)
    examples = "".join(_answer(answer, data, words.target, n) for n, answer in enumerate(answers, 1))
    protocol, escape = metrics["protocol"], html.escape
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(words.title)}</title><style>{STYLE}{_MORE}</style><h1>{escape(words.title)}</h1>"
        "<p class=warn>Research software, not a medical device. The patients are digital: "
        f"the scores prove engineering, never clinical value.</p><p>{words.lead}</p>{examples}"
        f"<h2>Search yourself</h2><pre>{escape(words.command)}</pre>"
        f"<h2>How good it is</h2><p class=note>Queries: test cases. Archive: {escape(str(protocol['archive']))} cases, "
        "own patient excluded, formed from the roles that each query has. Supervision in training: "
        f"{escape(', '.join(protocol['supervision']))}; none of it is in a query. Brackets: 95 % bootstrap over patients.</p>"
        f"<div style='overflow-x:auto'><table><tr><th>query<th>{'<th>'.join(METRICS)}<th>n</tr>"
        f"{''.join(_metric_row(metrics, key) for key in _keys(metrics))}</table></div>"
        f"<div class=plots>{_plots(plots)}</div></html>"
    )
    write_atomically(out.absolute(), page.encode())


# ---- examples ---------------------------------------------------------------------------------------------------------------


def _answer(answer: Answer, data: CaseDataset, target: str, number: int) -> str:
    """A query and its neighbours side by side."""
    case, escape = answer.case, html.escape
    label = str(case.labels.get(target))
    cards = [
        f"<div class='case query'><h3>Query {number}: {escape(label)}</h3>{_pictures(case, data)}{_reports(case, data)}</div>",
        *(
            _neighbour(neighbour, rank, data, target, label)
            for rank, neighbour in enumerate(answer.result.neighbours, 1)
        ),
    ]
    using = escape(", ".join(answer.result.using))
    note = f"<p class=note>case {escape(case.case_id)}, queried by {using}</p>"
    return f"<section><h2>Query {number}</h2>{note}<div class=cases>{''.join(cards)}</div></section>"


def _neighbour(neighbour: Neighbour, rank: int, data: CaseDataset, target: str, label_of_query: str) -> str:
    case, escape = data.cohort.case(neighbour.case_id), html.escape
    label = str(neighbour.labels.get(target, "no label"))
    style = "same" if label == label_of_query else "other"
    missing = escape(", ".join(neighbour.missing))
    lacks = f"<p class=note>lacks {missing}</p>" if missing else ""
    source = escape(neighbour.label_source.get(target, ""))
    return (
        f"<div class=case><h3>{rank}. <span class={style}>{escape(label)}</span></h3>"
        f"<p class=note>distance {neighbour.distance:.3f}; label: {source}</p>{lacks}"
        f"{_pictures(case, data)}{_reports(case, data)}</div>"
    )


def _pictures(case: Case, data: CaseDataset) -> str:
    """Every query role: pictures at native resolution in a grid, sentences below."""
    figures, sentences = [], []
    for role, recipe in data.modalities.items():
        if role in data.answer_roles:
            continue
        name, view = html.escape(role), data.view(case, role)
        if not recipe.present(view):
            figures.append(
                f"<figure><div class=absent>no {name}</div><figcaption>{name}</figcaption></figure>"
            )
            continue
        content = recipe.render(view)
        if isinstance(content, str):
            sentences.append(f"<p>{as_html(content)}</p>")
        else:
            figures.append(f"<figure>{as_html(content)}<figcaption>{name}</figcaption></figure>")
    return f"<div class=pictures>{''.join(figures)}</div>{''.join(sentences)}"


def _reports(case: Case, data: CaseDataset) -> str:
    """The answer roles, folded away, for the reader of the page only: no query sees them."""
    parts = []
    for role in data.answer_roles:
        recipe, view = data.modalities[role], data.view(case, role)
        if recipe.present(view):
            summary = f"<summary>{html.escape(role)} (not part of the query)</summary>"
            parts.append(f"<details>{summary}{as_html(recipe.render(view))}</details>")
    return "".join(parts)


# ---- numbers ----------------------------------------------------------------------------------------------------------------


def _keys(metrics: Mapping[str, Any]) -> list[str]:
    """The rows of the table: the whole query, groups, single roles, other archives, and paired differences."""
    singles = sorted(key for key in metrics if "/" not in key and "+" not in key and key not in NO_SUBSET)
    keys = [
        "full",
        *sorted(key for key in metrics if key.startswith("group/")),
        *singles,
        "late/full",
        "joint/full",
        "with_answers/full",
        "training/full",
        *(f"paired/full-{single}" for single in singles),
        "paired/full-late/full",
    ]
    return [key for key in keys if key in metrics]


def _metric_row(metrics: Mapping[str, Any], key: str) -> str:
    cells = []
    for name in METRICS:
        m = read_estimate(metrics[key][name])
        if m.value is None:
            cells.append("<td>–</td>")
            continue
        without_chance = key.startswith("paired/") or m.chance is None
        chance = "" if without_chance else f"<br><span class=note>chance {m.chance:.3f}</span>"
        cells.append(f"<td>{m.value:.3f} <span class=note>({m.low:.3f}–{m.high:.3f})</span>{chance}</td>")
    return f"<tr><th>{html.escape(key)}</th>{''.join(cells)}<td>{metrics[key]['mAP']['n']}</td></tr>"


def _plots(plots: Mapping[str, Path]) -> str:
    figures = []
    for caption, path in plots.items():
        if path.is_file():
            name, data = html.escape(caption), base64.b64encode(path.read_bytes()).decode()
            picture = f"<img alt='{name}' src='data:image/png;base64,{data}'>"
            figures.append(f"<figure>{picture}<figcaption class=note>{name}</figcaption></figure>")
    return "".join(figures)
