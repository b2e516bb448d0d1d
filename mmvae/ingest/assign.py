"""Assigns each asset a kind: that of the best claim among all installed modalities, if it is above a threshold."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmvae.atomic import write_atomically
from mmvae.case import Asset
from mmvae.cohort import Cohort, cases_jsonl
from mmvae.discovery import installed
from mmvae.errors import InputError
from mmvae.ingest.claims import AskClaims, ClaimProcess, Claims

# Below this claim an asset's kind stays unknown: a wrong kind harms a search more than an unused series.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Assignment:
    """A kind or None, the confidence in it, and the second-best kind."""

    kind: str | None
    confidence: float
    runner_up: str | None


def assignment_of(claims: Claims, override: str | None = None) -> Assignment:
    """The kind that follows from claims sorted by confidence; an override has confidence 1, and "" means no kind."""
    if override is not None:
        other = next((kind for claim, kind in claims if claim > 0 and kind != override), None)
        return Assignment(override or None, 1.0, other)
    best, *rest = claims or [(0.0, "")]
    second = rest[0] if rest and rest[0][0] > 0 else None
    if best[0] < THRESHOLD:
        return Assignment(None, round(best[0], 3), best[1] if best[0] > 0 else None)
    return Assignment(best[1], round(best[0], 3), second[1] if second else None)


def with_kinds(
    assets: Sequence[Asset],
    ask: AskClaims,
    override: Mapping[str, str],
    many: Mapping[str, Sequence[str]] = {},
) -> tuple[Asset, ...]:
    """The assets with their kinds assigned.

    Args:
        assets: Assets of one or several cases.
        ask: Returns the claims of the installed modalities.
        override: Kind by the series' pseudonym, or by F of one of an asset's files.
        many: F of each file, by the hash that represents them in an asset's `files`.
    """
    answers = ask([{**asset.facts, "type": asset.type} for asset in assets])
    assigned = []
    for asset, claims in zip(assets, answers):
        files = many.get(asset.files["sha256"], ()) if isinstance(asset.files, Mapping) else asset.files
        names = [name.split("#")[0] for name in files] + [str(asset.facts.get("series", ""))]
        by_hand = next((override[name] for name in names if name in override), None)
        assignment = assignment_of(claims, by_hand)
        assigned.append(
            replace(
                asset, kind=assignment.kind, confidence=assignment.confidence, runner_up=assignment.runner_up
            )
        )
    return tuple(assigned)


def read_override(path: Path | None) -> dict[str, str]:
    """Kind by F or series, from rows `F_or_series,kind`; an empty kind makes a series unknown.

    Raises:
        InputError: naming the line, or a kind that no installed modality has.
    """
    if path is None:
        return {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name}: not readable UTF-8 text ({type(error).__name__})", "override"
        ) from error
    override = {}
    for number, row in enumerate(rows, 1):
        if number == 1 and row and row[0].strip().lower() in ("f_or_series", "f", "series"):
            continue
        if len(row) != 2:
            raise InputError(
                f"{path.name} line {number}: found {len(row)} cells, expected F_or_series,kind", "override"
            )
        name, kind = row[0].strip(), row[1].strip()
        if kind and kind not in installed():
            raise InputError(
                f"{path.name} line {number}: no installed modality is called {kind!r}; installed are {', '.join(sorted(installed()))}",
                "override",
            )
        override[name] = kind
    return override


def assign_cohort(root: Path, override: Path | None = None) -> tuple[int, int]:
    """Assigns the kinds of a scanned cohort's assets again; returns how many changed, and how many are unknown.

    Raises:
        InputError: for a cohort whose kinds came from a MAP: it has no header facts to decide by.
    """
    cohort = Cohort.load(root)
    if cohort.card.source != "dicom":
        raise InputError(
            f"the cohort's source is {cohort.card.source!r}: its kinds came from a MAP, not from headers; scan it again with another MAP",
            "cohort",
        )
    by_hand, changed, unknown, cases = read_override(override), 0, 0, []
    with ClaimProcess() as ask:
        ask([{**asset.facts, "type": asset.type} for case in cohort.cases for asset in case.assets])
        for case in cohort.cases:
            assets = with_kinds(case.assets, ask, by_hand)
            changed += sum(a.kind != b.kind for a, b in zip(case.assets, assets))
            unknown += sum(a.kind is None for a in assets)
            cases.append(replace(case, assets=assets))
    write_atomically(root / "cases.jsonl", cases_jsonl(cases).encode())
    return changed, unknown
