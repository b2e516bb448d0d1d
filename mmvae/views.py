"""The view of a case that one role gets: assets of its kind, and answers only for an answer role (EVALUATION.md)."""

from pathlib import Path

from mmvae.case import Answers, Case, View
from mmvae.modality import Modality


def view_of(case: Case, root: Path, kind: str, recipe: Modality, answers: Answers, answer_role: bool) -> View:
    """The view of a case that one role gets.

    Args:
        case: A case of the cohort.
        root: The cohort's folder.
        kind: Kind of the role's assets.
        recipe: The role's recipe, which selects among the assets.
        answers: What the cohort's card lists as answers.
        answer_role: Whether the role is listed in `model.answer_roles`; only such a role sees answers.
    """
    assets = tuple(asset for asset in case.assets if asset.kind == kind)
    if answer_role:
        selected = tuple(recipe.select(assets)) if assets else ()
        return View(root, selected, case.record, case.terms, case.labels, case.lesion, case.frame_mm)
    if kind in answers.kinds:
        assets = ()
    selected = tuple(recipe.select(assets)) if assets else ()
    record = {name: value for name, value in case.record.items() if name not in answers.fields}
    terms = None if answers.terms else case.terms
    return View(root, selected, record, terms, {}, case.lesion, case.frame_mm)
