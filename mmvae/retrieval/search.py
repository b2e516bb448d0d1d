"""Search: the nearest neighbours of a query in an archive, by any subset of roles, with filters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from mmvae.case import Value
from mmvae.errors import EmptyQuery, InputError
from mmvae.retrieval.approximate import USED_FROM, nearest
from mmvae.retrieval.archive import Archive
from mmvae.retrieval.experts import ArchiveRoles
from mmvae.retrieval.filter import Predicate
from mmvae.retrieval.query import Query

Engine = Literal["auto", "exact", "usearch"]


@dataclass(frozen=True)
class Neighbour:
    """A case that was found: its distance, what is known about it, and which of the queried roles it lacks."""

    case_id: str
    distance: float
    labels: Mapping[str, Value]
    label_source: Mapping[str, str]
    terms: Sequence[str] | None
    record: Mapping[str, Value]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Neighbours, nearest first, and how they were found."""

    neighbours: tuple[Neighbour, ...]
    using: tuple[str, ...]
    archive_roles: ArchiveRoles
    archive_cases: int
    left_by_filter: int


def search(
    archive: Archive,
    query: Query,
    k: int = 10,
    using: Sequence[str] | None = None,
    archive_roles: ArchiveRoles = "matched",
    where: Predicate | None = None,
    engine: Engine = "auto",
) -> Result:
    """The k nearest cases of other patients. The filter is applied before the search.

    Args:
        archive: A snapshot of an index (`Index.snapshot`).
        query: The query case.
        k: Number of neighbours; fewer are returned if fewer can be compared.
        using: Roles of the query; by default all but the answer roles.
        archive_roles: The roles that form each archive case's point: `matched`, those that the query has; `joint`, all
            but the answer roles; `with_answers`, all.
        where: Condition that a case must meet to be found.
        engine: `auto` is exact unless the search is joint and unfiltered in an archive of 100,000 cases or more.

    Raises:
        EmptyQuery: if the query has none of the requested roles.
        InputError: for an unknown role, k < 1, or a filter that no case passes.

    >>> from pathlib import Path
    >>> from mmvae.latent.space import RetrievalSpace
    >>> from mmvae.retrieval.experts import Experts
    >>> from mmvae.retrieval.facts import Facts
    >>> from mmvae.retrieval.provenance import Provenance
    >>> from mmvae.retrieval.query import query_from_archive
    >>> mean = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.1]]], np.float32)  # of three cases, one role, two dimensions
    >>> experts = Experts(("t2",), (), ("c1", "c2", "c3"), mean, np.zeros_like(mean), np.ones((3, 1), bool))
    >>> provenance = Provenance("0" * 64, RetrievalSpace(), ("t2",), ())
    >>> points = experts.points(provenance.space, experts.present)
    >>> facts = (Facts("c1", "p1"), Facts("c2", "p2"), Facts("c3", "p3"))
    >>> archive = Archive(Path(), "example", 0, provenance, np.arange(1, 4), facts, experts, points)
    >>> [neighbour.case_id for neighbour in search(archive, query_from_archive(archive, "c1"), k=2).neighbours]
    ['c3', 'c2']
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1", "k")
    roles = _roles(archive, query, using)
    point = query.experts.points(archive.space, query.experts.having(roles))
    passes = np.array([where is None or where(facts.record) for facts in archive.facts], bool)
    if not passes.any():
        raise InputError(f"the filter leaves none of the archive's {len(archive)} cases; widen it", "where")
    allowed = passes & np.array([facts.patient != query.patient for facts in archive.facts], bool)
    if _uses_graph(archive, engine, archive_roles == "joint" and where is None):
        rows, distance = _approximate(archive, point, allowed, k)
    else:
        point_roles = archive.experts.roles_forming(archive_roles, roles)
        rows, distance = _exact(archive, point, allowed, point_roles, k)
    neighbours = tuple(_neighbour(archive, n, d, roles) for n, d in zip(rows.tolist(), distance.tolist()))
    return Result(neighbours, roles, archive_roles, len(archive), int(passes.sum()))


def _roles(archive: Archive, query: Query, using: Sequence[str] | None) -> tuple[str, ...]:
    """The requested roles that the query has."""
    known = archive.provenance.roles
    for role in using or ():
        if role not in known:
            raise InputError(f"{role!r} is not a role of this index; it has {list(known)}", "using")
    requested = [role for role in known if role in (using or archive.provenance.query_roles)]
    experts = query.experts
    roles = tuple(role for role, has in zip(experts.roles, experts.having(requested)[0]) if has)
    if not roles:
        present = [role for role, has in zip(experts.roles, experts.present[0]) if has]
        raise EmptyQuery(
            f"the query has none of {requested}; it has {present or 'nothing that this model reads'}. Query by other roles.",
            "using",
        )
    return roles


def _uses_graph(archive: Archive, engine: Engine, joint_unfiltered: bool) -> bool:
    if engine == "usearch" and not joint_unfiltered:
        raise InputError(
            "usearch holds the points of all query roles and cannot filter; use it with the joint archive and without a filter",
            "engine",
        )
    return engine == "usearch" or (engine == "auto" and joint_unfiltered and len(archive) >= USED_FROM)


def _distances(archive: Archive, point: np.ndarray, points: np.ndarray) -> Float[np.ndarray, " N"]:
    return archive.space.distances(torch.from_numpy(point), torch.from_numpy(points)).numpy()[0]


def _exact(
    archive: Archive,
    point: Float[np.ndarray, "1 U"],
    allowed: Bool[np.ndarray, " N"],
    point_roles: Sequence[str],
    k: int,
) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Rows and distances of the k nearest allowed cases that have at least one of `point_roles`."""
    has = archive.experts.having(point_roles)
    rows = np.flatnonzero(allowed & has.any(1))
    distance = _distances(archive, point, archive.experts.rows(rows).points(archive.space, has[rows]))
    order = np.argsort(distance, kind="stable")[:k]
    return rows[order], distance[order]


def _approximate(
    archive: Archive, point: Float[np.ndarray, "1 U"], allowed: Bool[np.ndarray, " N"], k: int
) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """The same from the graph over stored points; k plus the number of excluded cases are requested, since the graph cannot filter."""
    keys = nearest(archive, point[0], k + int((~allowed).sum()))
    candidates = np.searchsorted(archive.keys, np.array(keys, np.int64))
    rows = candidates[allowed[candidates]][:k]
    distance = _distances(archive, point, archive.points_of_all[rows])
    order = np.argsort(distance, kind="stable")
    return rows[order], distance[order]


def _neighbour(archive: Archive, row: int, distance: float, roles: Sequence[str]) -> Neighbour:
    facts, present = archive.facts[row], archive.experts.present[row]
    missing = tuple(role for role, has in zip(archive.experts.roles, present) if role in roles and not has)
    return Neighbour(
        facts.case_id, distance, facts.labels, facts.label_source, facts.terms, facts.record, missing
    )
