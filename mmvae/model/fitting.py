"""Recipes fitted on training cases; a role that is there only because of answers, and does not say so, is refused."""

from collections.abc import Sequence

from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.discovery import kind_of
from mmvae.errors import InputError
from mmvae.modality import Modality, TrainingViews
from mmvae.views import view_of


def fit_recipe(
    recipe: Modality, role: str, answer_role: bool, cohort: Cohort, training: Sequence[Case]
) -> Modality:
    """The recipe with its statistics, vocabulary or terms filled in.

    Args:
        recipe: As a user wrote it.
        role: Its role in the model.
        answer_role: Whether the role is listed in `model.answer_roles`.
        cohort: Whose card says what answers are.
        training: Cases that may be looked at.

    Raises:
        InputError: where the role is present only because of answers and is no answer role.
    """
    kind, card = kind_of(recipe, role), cohort.card
    if not answer_role and kind in card.answers.kinds:
        raise InputError(
            f"role {role!r} sees only assets of kind {kind!r}, which card.json lists as answers; add it to "
            "model.answer_roles, or take the kind out of the MAP's answers"
        )

    def views(answers: bool) -> list:
        of_cases = (view_of(case, cohort.root, kind, recipe, card.answers, answers) for case in training)
        return [view for view in of_cases if recipe.present(view)]

    present = views(answer_role)
    if not present and not answer_role and views(True):
        raise InputError(
            f"role {role!r} is present only because of answers (card.json lists {card.answers}); add it to model.answer_roles"
        )
    return recipe.fitted(TrainingViews(card, present))
