"""The experts of many cases as arrays, from which points are formed without a model or Lightning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from mmvae.latent.gaussian import Gaussian
from mmvae.latent.space import RetrievalSpace

# What an archive case's point is formed of: the roles that the query has; all but the answer roles; all.
ArchiveRoles = Literal["matched", "joint", "with_answers"]


@dataclass(frozen=True)
class Experts:
    """Experts of N cases: mean and logvar (N, M, D), present (N, M), and the ids of the cases.

    Args:
        roles: Names along axis M, in the model's order.
        answer_roles: The roles that see answers.
        case_ids: Names along axis N.
        mean: Mean of each role's Gaussian; undefined where the role is not present.
        logvar: Log-variance of each role's Gaussian; undefined where the role is not present.
        present: Whether the case has the role.
    """

    roles: tuple[str, ...]
    answer_roles: tuple[str, ...]
    case_ids: tuple[str, ...]
    mean: Float[np.ndarray, "N M D"]
    logvar: Float[np.ndarray, "N M D"]
    present: Bool[np.ndarray, "N M"]

    @property
    def query_roles(self) -> tuple[str, ...]:
        """All roles but the answer roles."""
        return tuple(role for role in self.roles if role not in self.answer_roles)

    def having(self, using: Iterable[str]) -> Bool[np.ndarray, "N M"]:
        """Which of these roles each case has; False for every other role."""
        requested = set(using)
        return self.present & np.array([role in requested for role in self.roles])

    def roles_forming(self, archive_roles: ArchiveRoles, queried: Sequence[str]) -> Sequence[str]:
        """The roles that form these cases' points as an archive, for a query by the roles `queried`."""
        return {"matched": queried, "joint": self.query_roles, "with_answers": self.roles}[archive_roles]

    def points(self, space: RetrievalSpace, present: Bool[np.ndarray, "N M"]) -> Float[np.ndarray, "N U"]:
        """Each case's point, formed from the roles marked present; the prior's point if none is."""
        gaussian = Gaussian(torch.from_numpy(self.mean), torch.from_numpy(self.logvar))
        with torch.no_grad():
            return space.points(gaussian, torch.from_numpy(np.ascontiguousarray(present))).numpy()

    def rows(self, index: Sequence[int] | np.ndarray) -> "Experts":
        """The experts of these rows."""
        ids = tuple(np.array(self.case_ids, dtype=object)[index])
        return replace(
            self, case_ids=ids, mean=self.mean[index], logvar=self.logvar[index], present=self.present[index]
        )
