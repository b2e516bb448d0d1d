"""A query by example → its neighbours in an index, by any subset of roles, with filters."""

import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mmvae.case import Case, Cohort, InputError, Lesion
from mmvae.ingest.identity import Vault
from mmvae.ingest.study import scan_dicom
from mmvae.latent.gaussian import DISTANCES
from mmvae.model import MMVAE
from mmvae.retrieval.approximate import ASKED_FROM, nearest
from mmvae.retrieval.embed import Experts, embed
from mmvae.retrieval.index import Index
from mmvae.retrieval.where import Predicate

Archive = Literal["matched", "joint", "with_answers"]


class EmptyQuery(InputError):
    """Nothing in the query can be used."""


@dataclass(frozen=True)
class Neighbour:
    """One answer: the case, how far it is, what is known of it, and which queried roles it lacks."""

    case_id: str
    distance: float
    labels: Mapping
    label_source: Mapping
    terms: Sequence[str] | None
    record: Mapping
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Neighbours, nearest first, and how they were found."""

    neighbours: tuple[Neighbour, ...]
    using: tuple[str, ...]
    archive: Archive
    archive_cases: int
    left_by_filter: int


def query_from_index(index: Index, case_id: str) -> tuple[Experts, str]:
    """Experts and patient of a case that the index holds."""
    _, experts = index.experts(index.meta()["roles"])
    if case_id not in experts.case_ids:
        raise InputError(
            f"the index holds no case {case_id!r} (it holds {len(experts.case_ids)}); give --cohort to query by a case of a cohort"
        )
    row = experts.case_ids.index(case_id)
    _, facts = index.facts()
    return experts.rows(np.array([row])), facts[row]["patient"]


def query_from_cohort(index: Index, cohort: Cohort, case: Case) -> tuple[Experts, str]:
    """Experts and patient of a case that the index need not hold, by the index's own model."""
    model = MMVAE.load_from_checkpoint(index.checkpoint)
    return embed(model, cohort, [case]), case.patient


def query_from_folder(
    index: Index,
    folder: Path,
    lesion: tuple[float, float, float] | None = None,
    report: Path | None = None,
    record: Mapping[str, float | int | str] = {},
    jobs: int = 1,
) -> tuple[Experts, str]:
    """Experts of a DICOM study in a folder; it is scanned under a key that is forgotten at the end (FORMATS: Identity).

    Raises:
        EmptyQuery: where nothing in the folder can be used.
        InputError: where it holds several studies.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "query"
        if report is not None:
            try:
                report.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    f"--report {report.name}: not readable UTF-8 text ({type(error).__name__})"
                ) from error
        vault = Vault(Path(temporary), secrets.token_bytes(32))
        made = scan_dicom(folder, root, jobs=jobs, vault=vault, reports=report)
        if not made.cases:
            why = ", ".join(sorted({s.code for s in made.skipped})) or "no file"
            raise EmptyQuery(
                f"nothing in the study folder can be used ({why}); expected a DICOM study with MR series"
            )
        cohort = Cohort.load(root)
        if len({case.case_id.split("-")[0] for case in cohort.cases}) > 1:
            raise InputError(f"--case names a folder of {len(cohort.cases)} studies; expected one")
        case = cohort.cases[0]
        if lesion is not None:
            case = replace(case, lesion=Lesion(lesion), frame_mm=lesion, frame_from="lesion")
        case = replace(case, record={**case.record, **record})
        return query_from_cohort(index, replace(cohort, cases=(case,)), case)


def search(
    index: Index,
    query: Experts,
    patient: str | None,
    k: int = 10,
    using: Sequence[str] | None = None,
    archive: Archive = "matched",
    where: Predicate | None = None,
    engine: Literal["auto", "exact", "usearch"] = "auto",
) -> Result:
    """The k nearest cases of other patients.

    `matched` (the default) forms each archive case's posterior from the roles that the query has; `joint` from all it has
    but answers; `with_answers` from all. Filters first, then searches. Exact unless the archive is joint, unfiltered and
    has 100,000 cases or `engine` asks for usearch.

    Raises:
        EmptyQuery: where the query has none of the roles asked for.
        InputError: for an unknown role, k < 1, or a filter that leaves none.
    """
    if k < 1:
        raise InputError(f"-k {k}: expected at least 1")
    meta = index.meta()
    for role in using or ():
        if role not in meta["roles"]:
            raise InputError(f"--using {role!r} is no role of this index; it has {meta['roles']}")
    wanted = [
        role
        for role in meta["roles"]
        if role in (using or [r for r in meta["roles"] if r not in meta["answer_roles"]])
    ]
    here = query.having(wanted)
    if not here.any():
        has = [role for role, there in zip(query.roles, query.present[0]) if there]
        raise EmptyQuery(
            f"the query has none of {wanted}; it has {has or 'nothing that this model reads'}. Give other --using roles."
        )
    roles = [role for role, there in zip(query.roles, here[0]) if there]
    fusion = index.fusion
    z = query.means(fusion, here)
    total = index.count()
    joint_of_all = archive == "joint" and where is None
    if engine == "usearch" and not joint_of_all:
        raise InputError(
            "usearch holds the joint posterior means and cannot filter; use it with --archive joint and without --where"
        )
    keys, facts = index.facts()
    keep = np.array([where is None or where(fact["record"]) for fact in facts], bool)
    left = int(keep.sum())
    if left == 0:
        raise InputError(f"the filter leaves none of the archive's {total} cases; widen --where")
    keep &= np.array([fact["patient"] != patient for fact in facts], bool)
    formed = {
        "matched": roles,
        "joint": [r for r in meta["roles"] if r not in meta["answer_roles"]],
        "with_answers": meta["roles"],
    }[archive]
    place = {key: n for n, key in enumerate(keys)}
    approximate = engine == "usearch" or (engine == "auto" and joint_of_all and total >= ASKED_FROM)
    # Read once: what forms the archive, and what tells which queried roles a neighbour lacks.
    _, experts = index.experts(roles if approximate else [*formed, *roles])
    if approximate:
        own = sum(fact["patient"] == patient for fact in facts)
        chosen = np.array([place[key] for key in nearest(index, z[0], k + own) if keep[place[key]]], int)[:k]
        _, means = index.means()
        distance = np.full(total, np.inf)
        distance[chosen] = DISTANCES[meta["distance"]](
            torch.from_numpy(z), torch.from_numpy(means[chosen].copy())
        ).numpy()[0]
        chosen = chosen[np.argsort(distance[chosen], kind="stable")]
    else:
        has = experts.having(formed)
        keep &= has.any(1)
        distance = np.full(total, np.inf)
        rows = np.flatnonzero(keep)
        means = experts.rows(rows).means(fusion, has[rows])
        distance[rows] = DISTANCES[meta["distance"]](torch.from_numpy(z), torch.from_numpy(means)).numpy()[0]
        chosen = np.argsort(distance, kind="stable")[: min(k, len(rows))]
    order = [role for role in meta["roles"] if role in roles]
    neighbours = tuple(
        Neighbour(
            facts[n]["case_id"],
            float(distance[n]),
            facts[n]["labels"],
            facts[n]["label_source"],
            facts[n]["terms"],
            facts[n]["record"],
            tuple(role for role in order if not experts.present[n, experts.roles.index(role)]),
        )
        for n in chosen
    )
    return Result(neighbours, tuple(roles), archive, total, left)
