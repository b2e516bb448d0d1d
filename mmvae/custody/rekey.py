"""Gives a cohort and its vault a new key: renames every pseudonym and folder, and shifts every date anew."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmvae.atomic import swap_folder
from mmvae.case import Asset, Case
from mmvae.cohort import Cohort, write_cohort
from mmvae.errors import InputError
from mmvae.identity.text import shifted_dates
from mmvae.identity.vault import Vault, vault_path
from mmvae.ingest.names import files_field
from mmvae.splits import Split, Splits

Renames = Mapping[str, Mapping[str, str]]  # for patients, cases, files and series: old pseudonym → new one


def rekey(root: Path) -> int:
    """Gives the cohort at `root` and its vault a new key; returns how many cases were renamed.

    Both are built beside the old ones and swapped in by renames, the cohort first; an interrupted swap is finished by the
    next run. Embeddings and indexes with the old names must be built again.

    Raises:
        InputError: if cohort or vault cannot be read, or do not belong together.
    """
    place = vault_path(root)
    new_root, new_place = root.with_name(f".{root.name}.rekeyed"), place.with_name(f".{place.name}.rekeyed")
    # The new vault is complete before the first rename, and is discarded before the new cohort is. So if it exists without
    # the new cohort, or the old cohort is gone, the previous run was interrupted during the swap.
    if new_place.is_dir() and not (root.is_dir() and new_root.is_dir()):
        _put(new_root, root)
        _put(new_place, place)
        return len(Cohort.load(root).cases)
    cohort, old = Cohort.load(root), Vault.open(place)
    _discard(new_root, new_place)
    try:
        _write_renamed(cohort, old, new_root, new_place)
    except BaseException:
        _discard(new_root, new_place)
        raise
    _put(new_root, root)
    _put(new_place, place)
    return len(cohort.cases)


def _discard(new_root: Path, new_place: Path) -> None:
    shutil.rmtree(new_place, ignore_errors=True)
    shutil.rmtree(new_root, ignore_errors=True)


def _put(new: Path, place: Path) -> None:
    """Moves a folder to its place, even if an earlier run had begun or finished doing so."""
    if new.is_dir() and place.is_dir():
        swap_folder(new, place)
    elif new.is_dir():
        os.rename(new, place)
    shutil.rmtree(place.with_name(f".{place.name}.old"), ignore_errors=True)


def _write_renamed(cohort: Cohort, old: Vault, new_root: Path, new_place: Path) -> None:
    """Writes the cohort under a new key to `new_root`, and then the vault that belongs to it."""
    new = Vault(new_place, secrets.token_bytes(32))
    (new_root / "cases").mkdir(parents=True)
    names = {
        "patients": new.patient,
        "cases": new.case,
        "files": new.file,
        "series": new.series,
    }
    rename = {
        what: {name: pseudonym_of(identifier) for name, identifier in old.known.get(what, {}).items()}
        for what, pseudonym_of in names.items()
    }
    cases = [_case(case, cohort.root, new_root, old, new, rename) for case in cohort.cases]
    write_cohort(new_root, cohort.card, cases, _splits(cohort.splits, rename["patients"]))
    for name in ("skipped.jsonl", "notes.jsonl"):
        path = cohort.root / name
        lines = path.read_text().splitlines() if path.is_file() else []
        (new_root / name).write_text("".join(sorted(_entry(line, rename) for line in lines)))
    new.save()


def _splits(splits: Splits | None, patients: Mapping[str, str]) -> Splits | None:
    if splits is None:
        return None
    folds = tuple(
        Split(*(tuple(patients[p] for p in part) for part in (s.train, s.validation, s.test)))
        for s in splits.folds
    )
    return replace(splits, folds=folds)


def _entry(line: str, rename: Renames) -> str:
    """A line of skipped.jsonl or notes.jsonl under the new names."""
    entry = json.loads(line)
    if entry["file"] is not None:
        entry["file"] = _file(entry["file"], rename["files"])
    if entry.get("case") is not None:
        entry["case"] = rename["cases"][entry["case"]]
    if entry.get("series") is not None:
        entry["series"] = rename["series"][entry["series"]]
    return json.dumps(entry) + "\n"


def _file(name: str, files: Mapping[str, str]) -> str:
    head, mark, frames = name.partition("#")
    if head not in files:
        raise InputError(f"the vault does not know the file {head}; this vault belongs to another cohort")
    return files[head] + mark + frames


def _case(case: Case, source: Path, target: Path, old: Vault, new: Vault, rename: Renames) -> Case:
    """The case under its new names; copies its folder, and shifts the dates of its texts by the new key.

    Args:
        case: The case under its old names.
        source: The old cohort's folder.
        target: The new cohort's folder.
        old: The old vault.
        new: The new vault.
        rename: New pseudonym by old one.
    """
    head, mark, lesion = case.case_id.partition("-")
    if head not in rename["cases"] or case.patient not in rename["patients"]:
        raise InputError(
            f"the vault does not know the case {case.case_id}; this vault belongs to another cohort"
        )
    case_id = rename["cases"][head] + mark + lesion
    (target / "cases" / case_id).mkdir()
    identifier = old.known["patients"][case.patient]
    days = new.shift_days(identifier) - old.shift_days(identifier)
    assets = []
    for asset in case.assets:
        uri = f"cases/{case_id}/{Path(asset.uri).name}"
        digest = asset.sha256
        if asset.type == "text":
            text = shifted_dates((source / asset.uri).read_text(encoding="utf-8"), days)
            (target / uri).write_text(text, encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
        else:
            shutil.copyfile(source / asset.uri, target / uri)
        assets.append(
            replace(
                asset,
                uri=uri,
                sha256=digest,
                facts=_facts(asset, rename),
                files=_files(asset, old, new, rename),
            )
        )
    return replace(case, case_id=case_id, patient=rename["patients"][case.patient], assets=tuple(assets))


def _facts(asset: Asset, rename: Renames) -> dict[str, Any]:
    facts = dict(asset.facts)
    if "series" in facts:
        facts["series"] = rename["series"][facts["series"]]
    return facts


def _files(asset: Asset, old: Vault, new: Vault, rename: Renames) -> tuple[str, ...] | dict[str, Any]:
    names = old.known["many"][asset.files["sha256"]] if isinstance(asset.files, Mapping) else asset.files
    renamed = tuple(sorted(_file(name, rename["files"]) for name in names))
    field = files_field(renamed)
    if isinstance(field, dict):
        new.many(field["sha256"], renamed)
    return field
