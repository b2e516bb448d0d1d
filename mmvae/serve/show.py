"""`mmvae show`: what each plugin sees of a case, and each modality decoded from the others, as one page."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image

from mmvae.atomic import write_atomically
from mmvae.batch import Observation, collate
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.discovery import load_all
from mmvae.errors import InputError
from mmvae.modality import Modality
from mmvae.model import MMVAE

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b2733;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}td,th{padding:.3rem .6rem;vertical-align:top;text-align:left;
border-bottom:1px solid #d8dee4}img{image-rendering:pixelated;background:#000}.note{color:#5b6874;font-size:.88rem}.warn{border-left:4px solid #c06020;
padding:.3rem .8rem;background:#fdf3ea}"""


@dataclass(frozen=True)
class Shown:
    """One role of one case: native rendering, the model's view of it and, decoded from the others, with its score."""

    role: str
    native: Image | str
    read: Image | str
    decoded: Image | str | None
    log_likelihood: float | None


def as_html(shown: Image | str | None, height: int = 0) -> str:
    """A picture as an inline PNG, a sentence as escaped text."""
    if shown is None:
        return "–"
    if isinstance(shown, str):
        return html.escape(shown)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", optimize=True)
    size = f' style="height:{height}px"' if height else ""
    return f'<img{size} alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _recipes_of(cohort: Cohort) -> dict[str, Modality]:
    """Without a checkpoint: each installed kind that the cohort has, with default fields."""
    kinds = {asset.kind for case in cohort.cases for asset in case.assets}
    return {kind: cls() for kind, cls in load_all().items() if kind in kinds}


@torch.no_grad()
def look_at(case_id: str, cohort: Cohort, model: MMVAE | None, sources: Sequence[str] | None) -> list[Shown]:
    """Every role that the case has."""
    recipes = model.modalities if model else _recipes_of(cohort)
    answers = model.answer_roles if model else list(recipes)
    case = cohort.case(case_id)
    data = CaseDataset(cohort, [case], recipes, answers)
    seen = {role: data.observe(0, role) for role in recipes}
    made = []
    for role, recipe in recipes.items():
        if seen[role] is None:
            continue
        decoded = score = None
        if model:
            using = [
                r
                for r in (sources or [r for r in recipes if r != role and r not in answers])
                if seen.get(r) is not None and r != role
            ]
            for r in sources or ():
                if r not in recipes:
                    raise InputError(f"--from {r!r} is no role of the checkpoint; it has {list(recipes)}")
            if using:
                batch = collate([data[0, 0]])
                present = torch.tensor([[r in using for r in model.roles]])
                experts, _ = model.experts(batch, present)
                z = model.posterior(experts, present & batch.present).mean
                distribution = model.decoders[role](z)
                blank = recipe.blank()
                decoded = recipe.describe(
                    Observation(distribution.mean[0].float(), torch.ones_like(blank.mask))
                )
                score = float(model.log_likelihoods(batch, z[None])[0, 0, model.roles.index(role)])
        made.append(
            Shown(
                role,
                recipe.render(data.view(case, role)),
                recipe.describe(seen[role].clean()),
                decoded,
                score,
            )
        )
    return made


def show_case(
    case_id: str, cohort_path: Path, checkpoint: Path | None, sources: Sequence[str] | None, out: Path
) -> Path:
    """The page at `out`."""
    cohort = Cohort.load(cohort_path)
    model = MMVAE.load_from_checkpoint(checkpoint) if checkpoint else None
    if sources and model is None:
        raise InputError("--from needs --checkpoint: decoding is the model's")
    rows = "".join(
        f"<tr><th>{html.escape(s.role)}</th><td>{as_html(s.native)}</td><td>{as_html(s.read)}</td>"
        f"<td>{as_html(s.decoded)}</td><td>{'' if s.log_likelihood is None else f'{s.log_likelihood:.1f} nats'}</td></tr>"
        for s in look_at(case_id, cohort, model, sources)
    )
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(case_id)}</title><style>{STYLE}</style>"
        f"<h1>Case {html.escape(case_id)}</h1><p class=warn>Research software, not a medical device.</p>"
        "<table><tr><th>role<th>native<th>as the model sees it<th>decoded from the others<th>log-likelihood</tr>"
        f"{rows}</table></html>"
    )
    write_atomically(out.absolute(), page.encode())
    return out
