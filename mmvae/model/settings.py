"""Checks of a model's settings against its roles, made once before anything is built."""

from collections.abc import Mapping, Sequence

from mmvae.errors import InputError
from mmvae.latent.objective import Objective


def check_roles(roles: Sequence[str], named: Mapping[str, Sequence[str]]) -> None:
    """Refuses a setting that names something other than a role.

    Args:
        roles: The model's roles.
        named: Names in each setting, by setting.

    Raises:
        InputError: naming the first such setting.
    """
    if not roles:
        raise InputError("model.modalities is empty; name at least one role, e.g. t2: T2")
    for setting, names in named.items():
        for name in names:
            if name not in roles:
                raise InputError(
                    f"model.{setting} names {name!r}, which is not a role; model.modalities has {sorted(roles)}"
                )


def check_draws(subsets: int, scored: float, visible: Mapping[str, float]) -> None:
    """Refuses a number of subsets below 1, and a value that is not a probability.

    Raises:
        InputError: naming the setting.
    """
    if subsets < 1:
        raise InputError(f"model.subsets is {subsets}; expected at least 1")
    if not 0 < scored <= 1:
        raise InputError(f"model.scored is {scored}; expected a probability above 0 and at most 1")
    for role, probability in visible.items():
        if not 0 <= probability <= 1:
            raise InputError(f"model.visible.{role} is {probability}; expected a probability between 0 and 1")


def check_objective(objective: Objective, roles: Sequence[str], components: int) -> None:
    """Refuses an objective that is not defined for the rule's posterior, or that reads a role that the model lacks.

    Raises:
        InputError: naming the problem.
    """
    try:
        objective.samples(components)
    except ValueError as error:
        raise InputError(f"model.objective: {error}") from error
    for role in objective.reads():
        if role not in roles:
            raise InputError(
                f"model.objective looks at {role!r}, which is not a role; model.modalities has {sorted(roles)}"
            )
