"""Writes the page of `mmvae show`: what each plugin reads from a case, and each modality decoded from the others."""

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
class Appearance:
    """How one role of a case looks: at native resolution, as the model reads it, and decoded from the others.

    Args:
        role: Name of the role.
        native: What a radiologist should see.
        read: The observation on the model's own grid.
        decoded: The observation expected from other roles; None without a model, or if no other role is present.
        log_likelihood: Log-likelihood of the observation under the decoder, in nats.
    """

    role: str
    native: Image | str
    read: Image | str
    decoded: Image | str | None = None
    log_likelihood: float | None = None


def as_html(content: Image | str | None, height: int = 0) -> str:
    """A picture as an inline PNG, a sentence as escaped text, None as a dash.

    >>> as_html("no fat < 5 mm")
    'no fat &lt; 5 mm'
    """
    if content is None:
        return "–"
    if isinstance(content, str):
        return html.escape(content)
    buffer = io.BytesIO()
    content.save(buffer, "PNG", optimize=True)
    size = f' style="height:{height}px"' if height else ""
    return f'<img{size} alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _recipes_of(cohort: Cohort) -> dict[str, Modality]:
    """The default recipe of each installed kind that the cohort has; these are shown without a checkpoint."""
    kinds = {asset.kind for case in cohort.cases for asset in case.assets}
    return {kind: cls() for kind, cls in load_all().items() if kind in kinds}


def appearances(
    case_id: str, cohort: Cohort, model: MMVAE | None, sources: Sequence[str] | None
) -> list[Appearance]:
    """The appearance of every role that the case has.

    Args:
        case_id: Id of the case.
        cohort: Cohort that holds the case.
        model: Model that reads and decodes; without one, each kind's default recipe reads.
        sources: Roles from which a role is decoded; by default all other query roles.

    Raises:
        InputError: if a source is not a role of the model, or there is no such case.
    """
    recipes = model.modalities if model else _recipes_of(cohort)
    answers = model.answer_roles if model else list(recipes)
    case = cohort.case(case_id)
    data = CaseDataset(cohort, [case], recipes, answers)
    for role in sources or ():
        if role not in recipes:
            raise InputError(f"{role!r} is not a role of the checkpoint; it has {list(recipes)}", "sources")
    observations = {role: data.observe(0, role) for role in recipes}
    rows = []
    for role, observation in observations.items():
        if observation is None:
            continue
        recipe, decoded, score = recipes[role], None, None
        using = [
            r
            for r in sources or (r for r in recipes if r not in answers)
            if r != role and observations[r] is not None
        ]
        if model is not None and using:
            decoded, score = _decoded(model, data, role, using)
        native, read = recipe.render(data.view(case, role)), recipe.describe(observation.clean())
        rows.append(Appearance(role, native, read, decoded, score))
    return rows


@torch.no_grad()
def _decoded(model: MMVAE, data: CaseDataset, role: str, using: Sequence[str]) -> tuple[Image | str, float]:
    """The decoder's mean for the role given the roles `using`, and the log-likelihood of the case's observation, in nats."""
    batch = collate([data[0, 0]])
    present = torch.tensor([[r in using for r in model.roles]])
    experts, _ = model.experts(batch, present)
    z = model.posterior(experts, present & batch.present).mean
    recipe, mean = model.modalities[role], model.decoders[role](z).mean[0].float()
    picture = recipe.describe(Observation(mean, torch.ones_like(recipe.blank().mask)))
    return picture, float(model.log_likelihoods(batch, z[None])[0, 0, model.roles.index(role)])


def show_case(
    case_id: str, cohort_path: Path, checkpoint: Path | None, sources: Sequence[str] | None, out: Path
) -> Path:
    """Writes the page of a case and returns its path, `out`.

    Args:
        case_id: Id of the case.
        cohort_path: Folder of the cohort.
        checkpoint: Model that reads and decodes; without one, default recipes read and nothing is decoded.
        sources: Roles from which a role is decoded; by default all other query roles.
        out: Path of the HTML file; an existing one is replaced.

    Raises:
        InputError: if sources are given without a checkpoint, or a name is unknown.
    """
    cohort = Cohort.load(cohort_path)
    model = MMVAE.load_from_checkpoint(checkpoint) if checkpoint else None
    if sources and model is None:
        raise InputError("decoding from other roles needs a model; name a checkpoint", "sources")
    rows = "".join(_row(appearance) for appearance in appearances(case_id, cohort, model, sources))
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(case_id)}</title><style>{STYLE}</style>"
        f"<h1>Case {html.escape(case_id)}</h1><p class=warn>Research software, not a medical device.</p>"
        "<table><tr><th>role<th>native<th>as the model sees it<th>decoded from the others<th>log-likelihood</tr>"
        f"{rows}</table></html>"
    )
    write_atomically(out.absolute(), page.encode())
    return out


def _row(appearance: Appearance) -> str:
    score = "" if appearance.log_likelihood is None else f"{appearance.log_likelihood:.1f} nats"
    pictures = (appearance.native, appearance.read, appearance.decoded)
    cells = "".join(f"<td>{content}</td>" for content in (*map(as_html, pictures), score))
    return f"<tr><th>{html.escape(appearance.role)}</th>{cells}</tr>"
