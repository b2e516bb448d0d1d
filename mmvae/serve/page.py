"""One self-contained page: queries and their nearest cases as pictures and words, the metric table, curve and map."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.model import MMVAE
from mmvae.retrieval.search import Result
from mmvae.serve.show import STYLE, as_html

_MORE = """body{max-width:94rem}.cases{display:flex;gap:.7rem;overflow-x:auto;padding-bottom:.6rem}.case{flex:1 0 12.5rem;border:1px solid #d8dee4;border-radius:.4rem;padding:.6rem;font-size:.85rem}
.case.query{border:2px solid #1f5f9f}.case h3{font-size:.95rem;margin:0 0 .3rem}.pictures{display:grid;grid-template-columns:1fr 1fr;gap:.25rem}
.pictures figure{margin:0}.pictures img{width:100%;height:auto}.pictures figcaption{font-size:.72rem;color:#5b6874}.same{color:#17663a;font-weight:600}
.other{color:#8a3b12}code{background:#f1f4f7;padding:.1rem .3rem;border-radius:.2rem}pre{background:#f1f4f7;padding:.7rem;overflow-x:auto}
.plots img{max-width:100%;image-rendering:auto;background:#fff}.absent{aspect-ratio:1;display:flex;align-items:center;justify-content:center;background:#eef1f4;color:#5b6874}"""


@dataclass(frozen=True)
class Answered:
    """A query case and what the search found."""

    case: Case
    result: Result


def _pictures(case: Case, data: CaseDataset) -> str:
    """Every non-answer role: pictures at native resolution in a grid, sentences below."""
    figures, sentences = [], []
    for role, recipe in data.modalities.items():
        if role in data.answer_roles:
            continue
        view = data.view(case, role)
        if not recipe.present(view):
            figures.append(
                f"<figure><div class=absent>no {html.escape(role)}</div><figcaption>{html.escape(role)}</figcaption></figure>"
            )
            continue
        shown = recipe.render(view)
        if isinstance(shown, Image):
            figures.append(f"<figure>{as_html(shown)}<figcaption>{html.escape(role)}</figcaption></figure>")
        else:
            sentences.append(f"<p>{html.escape(shown)}</p>")
    return f"<div class=pictures>{''.join(figures)}</div>{''.join(sentences)}"


def _words(case: Case, data: CaseDataset) -> str:
    """Report and findings, for the reader of the page: the query never saw them."""
    said = []
    for role in data.answer_roles:
        view = data.view(case, role)
        if data.modalities[role].present(view):
            said.append(
                f"<details><summary>{html.escape(role)} (not part of the query)</summary>{html.escape(str(data.modalities[role].render(view)))}</details>"
            )
    return "".join(said)


def _answer(answered: Answered, data: CaseDataset, target: str, number: int) -> str:
    mine = answered.case.labels.get(target)
    cards = [
        f"<div class='case query'><h3>Query {number}: {html.escape(str(mine))}</h3>{_pictures(answered.case, data)}{_words(answered.case, data)}</div>"
    ]
    for rank, neighbour in enumerate(answered.result.neighbours, 1):
        case = data.cohort.case(neighbour.case_id)
        label = str(neighbour.labels.get(target, "no label"))
        same = "same" if label == str(mine) else "other"
        lacks = (
            f"<p class=note>lacks {html.escape(', '.join(neighbour.missing))}</p>"
            if neighbour.missing
            else ""
        )
        source = html.escape(neighbour.label_source.get(target, ""))
        cards.append(
            f"<div class=case><h3>{rank}. <span class={same}>{html.escape(label)}</span></h3><p class=note>distance {neighbour.distance:.3f}; "
            f"label: {source}</p>{lacks}{_pictures(case, data)}{_words(case, data)}</div>"
        )
    using = html.escape(", ".join(answered.result.using))
    return f"<section><h2>Query {number}</h2><p class=note>case {html.escape(answered.case.case_id)}, queried by {using}</p><div class=cases>{''.join(cards)}</div></section>"


def _metric_rows(metrics: Mapping, keys: Sequence[str]) -> str:
    rows = []
    for key in keys:
        if key not in metrics:
            continue
        cells = []
        for name in ("P@1", "P@5", "P@10", "mAP", "nDCG@10"):
            m = metrics[key][name]
            if m["value"] is None:
                cells.append("<td>–</td>")
                continue
            chance = (
                "" if key.startswith("paired/") else f"<br><span class=note>chance {m['chance']:.3f}</span>"
            )
            cells.append(
                f"<td>{m['value']:.3f} <span class=note>({m['low']:.3f}–{m['high']:.3f})</span>{chance}</td>"
            )
        rows.append(
            f"<tr><th>{html.escape(key)}</th>{''.join(cells)}<td>{metrics[key]['mAP']['n']}</td></tr>"
        )
    return "".join(rows)


def write_page(
    out: Path, title: str, lead: str, model: MMVAE, cohort: Cohort, answered: Sequence[Answered], metrics: Mapping,
    plots: Mapping[str, Path], command: str, target: str,
) -> None:  # fmt: skip
    """Writes the page; pictures and plots are inside it."""
    data = CaseDataset(cohort, list(cohort.cases), model.modalities, model.answer_roles)
    singles = sorted(
        key
        for key in metrics
        if "/" not in key and "+" not in key and key not in ("full", "protocol", "fingerprint")
    )
    groups = sorted(key for key in metrics if key.startswith("group/"))
    keys = [
        "full",
        *groups,
        *singles,
        "late/full",
        "joint/full",
        "with_answers/full",
        "training/full",
        *(f"paired/full-{s}" for s in singles),
        "paired/full-late/full",
    ]
    pictures = "".join(
        f"<figure><img alt='{html.escape(name)}' src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'><figcaption class=note>{html.escape(name)}</figcaption></figure>"
        for name, path in plots.items()
        if path.is_file()
    )
    protocol = metrics["protocol"]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}{_MORE}</style><h1>{html.escape(title)}</h1><p class=warn>Research software, not a medical device. The patients are digital: "
        f"the scores prove engineering, never clinical value.</p><p>{lead}</p>"
        + "".join(_answer(one, data, target, n) for n, one in enumerate(answered, 1))
        + "<h2>Search by yourself</h2>"
        f"<pre>{html.escape(command)}</pre><h2>How good it is</h2><p class=note>Queries: test cases. Archive: {html.escape(str(protocol['archive']))} cases, "
        "own patient excluded, formed from the roles that each query has. Supervision in training: "
        f"{html.escape(', '.join(protocol['supervision']))}; none of it is in a query. Brackets: 95 % bootstrap over patients.</p>"
        "<div style='overflow-x:auto'><table><tr><th>query<th>P@1<th>P@5<th>P@10<th>mAP<th>nDCG@10<th>n</tr>"
        f"{_metric_rows(metrics, keys)}</table></div><div class=plots>{pictures}</div></html>"
    )
    out.write_text(page, encoding="utf-8")
