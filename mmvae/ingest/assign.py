"""Facts → kind: the best claim of all installed modalities above a threshold, the runner-up kept."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mmvae.atomic import write_atomically
from mmvae.case import Asset
from mmvae.cohort import Cohort, cases_jsonl
from mmvae.discovery import load_all
from mmvae.errors import InputError
from mmvae.modality import Modality

# Below it an asset's kind stays unknown: a wrong kind harms a search more than an unused series.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Assigned:
    """A kind or None, how surely, and the next best."""

    kind: str | None
    confidence: float
    runner_up: str | None


@cache
def _recipes() -> dict[str, Modality]:
    return {kind: cls() for kind, cls in load_all().items()}


def claims_of(facts: Mapping) -> list[tuple[float, str]]:
    """(claim, kind) of every installed kind, the surest first."""
    return sorted(
        ((recipe.claims(facts), kind) for kind, recipe in _recipes().items()), key=lambda c: (-c[0], c[1])
    )


def assign(facts: Mapping, override: str | None = None) -> Assigned:
    """The kind of an asset with these facts (`type` among them); an override is sure."""
    claims = claims_of(facts)
    if override is not None:
        other = next((kind for sure, kind in claims if sure > 0 and kind != override), None)
        return Assigned(override or None, 1.0, other)
    best, *rest = claims or [(0.0, "")]
    second = rest[0] if rest and rest[0][0] > 0 else None
    if best[0] < THRESHOLD:
        return Assigned(None, round(best[0], 3), best[1] if best[0] > 0 else None)
    return Assigned(best[1], round(best[0], 3), second[1] if second else None)


def reassigned(asset: Asset, override: Mapping[str, str], names: Sequence[str] = ()) -> Asset:
    """The asset with its kind asked again; an override names its series, or F of one of its files (`names`, where those are hashed)."""
    files = names or (() if isinstance(asset.files, Mapping) else asset.files)
    asked = [name.split("#")[0] for name in files] + [str(asset.facts.get("series", ""))]
    given = next((override[name] for name in asked if name in override), None)
    made = assign({**asset.facts, "type": asset.type}, given)
    return replace(asset, kind=made.kind, confidence=made.confidence, runner_up=made.runner_up)


def read_override(path: Path | None) -> dict[str, str]:
    """`F_or_series,kind` rows; an empty kind makes a series unknown.

    Raises:
        InputError: naming the line, or a kind that no installed modality has.
    """
    if path is None:
        return {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--override {path.name}: not readable UTF-8 text ({type(error).__name__})"
        ) from error
    made = {}
    for number, row in enumerate(rows, 1):
        if number == 1 and row and row[0].strip().lower() in ("f_or_series", "f", "series"):
            continue
        if len(row) != 2:
            raise InputError(
                f"--override {path.name} line {number}: found {len(row)} cells, expected F_or_series,kind"
            )
        name, kind = row[0].strip(), row[1].strip()
        if kind and kind not in _recipes():
            raise InputError(
                f"--override {path.name} line {number}: no installed modality is called {kind!r}; installed are {', '.join(sorted(_recipes()))}"
            )
        made[name] = kind
    return made


def assign_cohort(root: Path, override: Path | None = None) -> tuple[int, int]:
    """Asks again which kind each asset of a scanned cohort is; how many changed, and how many stay unknown.

    Raises:
        InputError: for a cohort whose kinds came from a MAP: it holds no header facts to ask by.
    """
    cohort = Cohort.load(root)
    if cohort.card.source != "dicom":
        raise InputError(
            f"the cohort's source is {cohort.card.source!r}: its kinds came from a MAP, not from headers; scan it again with another MAP"
        )
    given, changed, unknown, cases = read_override(override), 0, 0, []
    for case in cohort.cases:
        assets = tuple(reassigned(asset, given) for asset in case.assets)
        changed += sum(a.kind != b.kind for a, b in zip(case.assets, assets))
        unknown += sum(a.kind is None for a in assets)
        cases.append(replace(case, assets=assets))
    write_atomically(root / "cases.jsonl", cases_jsonl(cases).encode())
    return changed, unknown
