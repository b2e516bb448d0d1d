"""Provenance of the vectors in an embedding or index: the model and cohort they come from, and how they form points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmvae.case import Field
from mmvae.cohort import read_field
from mmvae.errors import InputError
from mmvae.latent.space import RetrievalSpace, plain_of_release_0_1
from mmvae.plain import from_plain, to_plain


@dataclass(frozen=True)
class Provenance:
    """What an embedding and an index store about their own origin.

    Args:
        fingerprint: SHA-256 of the model's recipes, space and encoder weights; points can be compared if it is equal.
        space: Forms points and compares them.
        roles: The model's roles, in its order.
        answer_roles: The roles that see answers.
        cohort: Name of the cohort.
        groups: Named sets of roles.
        origin: Class path of each role's recipe.
        fields: Record fields of the cohort.
    """

    fingerprint: str
    space: RetrievalSpace
    roles: tuple[str, ...]
    answer_roles: tuple[str, ...]
    cohort: str = ""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)

    @property
    def query_roles(self) -> tuple[str, ...]:
        """All roles but the answer roles."""
        return tuple(role for role in self.roles if role not in self.answer_roles)

    def plain(self) -> dict[str, Any]:
        """The provenance as stored in `meta.json` and in the index's table `meta`."""
        return {
            "fingerprint": self.fingerprint,
            "space": to_plain(self.space),
            "roles": list(self.roles),
            "answer_roles": list(self.answer_roles),
            "cohort": self.cohort,
            "groups": {name: list(roles) for name, roles in self.groups.items()},
            "origin": dict(self.origin),
            "fields": {name: field.plain() for name, field in self.fields.items()},
        }

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Provenance":
        """The provenance from the output of `plain`, or from what release 0.1 wrote.

        Raises:
            InputError: naming what is missing or does not fit; nothing that the file names is run.
        """
        space = plain.get("space")
        if space is None and isinstance(plain.get("fusion"), Mapping):
            space = plain_of_release_0_1(plain["fusion"], plain.get("distance", "cosine"))
        if not isinstance(plain.get("fingerprint"), str):
            raise InputError(
                "the vectors have no fingerprint: they were not written by mmvae, or are damaged"
            )
        roles, answer_roles = _names(plain, "roles"), _names(plain, "answer_roles")
        if not roles or not set(answer_roles) <= set(roles):
            raise InputError(
                f"the vectors have roles {roles} and answer roles {answer_roles}; they do not fit"
            )
        groups, origin, fields = (_mapping(plain, key) for key in ("groups", "origin", "fields"))
        return cls(
            plain["fingerprint"],
            from_plain(space, RetrievalSpace),
            roles,
            answer_roles,
            str(plain.get("cohort", "")),
            {name: _names(groups, name) for name in groups},
            {role: str(path) for role, path in origin.items()},
            {name: read_field(name, field) for name, field in fields.items()},
        )


def _mapping(plain: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What stands under a key that may be missing."""
    value = plain.get(key, {})
    if not isinstance(value, Mapping):
        raise InputError(f"the vectors have {key} {value!r}; expected an object of names")
    return value


def _names(plain: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = plain.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"the vectors have {key} {names!r}; expected a list of names")
    return tuple(names)
