"""Embedding: a trained model and the cases of a cohort → the expert of every role of every case."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from mmvae.batch import collate
from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.data import CaseDataset
from mmvae.model import MMVAE
from mmvae.plain import to_plain
from mmvae.retrieval.embedding import write_embedding
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.facts import Facts
from mmvae.retrieval.provenance import Provenance


def misfits(model: MMVAE, cohort: Cohort, cases: Sequence[Case]) -> list[str]:
    """One line for each thing in these cases that the model's recipes do not know and treat as missing."""
    count_of: Counter[str] = Counter()
    dataset = CaseDataset(cohort, cases, model.modalities, model.answer_roles)
    for role, recipe in model.modalities.items():
        absent = 0
        for case in dataset.cases:
            view = dataset.view(case, role)
            absent += not recipe.present(view)
            count_of.update(f"{role}: {line}" for line in recipe.misfits(view))
        if absent == len(dataset.cases):
            count_of[f"{role}: no case has it"] = absent
    return [
        f"{line} ({count} of {len(dataset.cases)} cases); treated as missing"
        for line, count in sorted(count_of.items())
    ]


@torch.no_grad()
def embed(
    model: MMVAE,
    cohort: Cohort,
    cases: Sequence[Case],
    batch_size: int = 32,
    cache: Path | None = None,
    progress: Callable[[range], Iterable[int]] = lambda starts: starts,
) -> Experts:
    """The experts of these cases, by the checkpoint's own recipes.

    Args:
        model: A trained model.
        cohort: The cases' cohort; the model need not have been trained on it.
        cases: The cases to embed, at least one.
        batch_size: Number of cases encoded at once.
        cache: Folder that caches observations; by default a folder beside each case.
        progress: Wraps the range of batches, e.g. in a progress bar.

    Raises:
        InputError: naming the case and role that cannot be read.
    """
    model = model.eval()
    dataset = CaseDataset(cohort, cases, model.modalities, model.answer_roles, cache=cache)
    means, logvars, presents = [], [], []
    for start in progress(range(0, len(dataset), batch_size)):
        batch = collate([dataset[i, 0] for i in range(start, min(start + batch_size, len(dataset)))])
        batch = batch.to(model.device)
        experts, _ = model.experts(batch)
        means.append(experts.mean.float().cpu())
        logvars.append(experts.logvar.float().cpu())
        presents.append(batch.present.cpu())
    mean, logvar, present = (torch.cat(parts).numpy() for parts in (means, logvars, presents))
    ids = tuple(case.case_id for case in cases)
    return Experts(model.roles, tuple(model.answer_roles), ids, mean, logvar, present)


def provenance_of(model: MMVAE, cohort: Cohort) -> Provenance:
    """The provenance of an embedding of this cohort by this model."""
    return Provenance(
        model.fingerprint(),
        model.space,
        model.roles,
        tuple(model.answer_roles),
        cohort.card.name,
        {name: tuple(roles) for name, roles in model.groups.items()},
        {role: to_plain(recipe)["class_path"] for role, recipe in model.modalities.items()},
        dict(cohort.card.fields),
    )


def embed_cohort(
    model: MMVAE,
    checkpoint: Path,
    cohort: Cohort,
    out: Path,
    progress: Callable[[range], Iterable[int]] = lambda starts: starts,
) -> None:
    """Embeds every case of a cohort into a new folder.

    Args:
        model: The model of the checkpoint.
        checkpoint: Copied beside the vectors.
        cohort: The cohort to embed.
        out: Free path of the embedding.
        progress: Wraps the range of batches, e.g. in a bar.

    Raises:
        InputError: if `out` exists, or naming the case and role that cannot be read.
    """
    experts = embed(model, cohort, cohort.cases, progress=progress)
    facts = tuple(Facts.of(case) for case in cohort.cases)
    write_embedding(out, provenance_of(model, cohort), experts, facts, checkpoint)
