"""Vault and cohort under a new key, together: every pseudonym, every shifted date, every folder's name."""

import hashlib
import json
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from mmvae.atomic import swap_folder
from mmvae.case import Asset, Case
from mmvae.cohort import Cohort, write_cohort
from mmvae.errors import InputError
from mmvae.identity.text import shifted_dates
from mmvae.identity.vault import Vault, vault_path
from mmvae.ingest.names import files_field
from mmvae.splits import Split, Splits


def rekey(root: Path) -> int:
    """A new key for the cohort at `root` and its vault; how many cases were renamed.

    Both are made anew beside the old ones and swapped by renames, the cohort first; a run that was stopped between the two is
    finished by the next. Embeddings and indexes of the old names must be made again.

    Raises:
        InputError: where cohort or vault cannot be read.
    """
    place = vault_path(root)
    beside, ahead = root.with_name(f".{root.name}.rekeyed"), place.with_name(f".{place.name}.rekeyed")
    if ahead.is_dir() and not beside.is_dir() and root.is_dir():  # stopped after the cohort's swap
        swap_folder(ahead, place)
        return len(Cohort.load(root).cases)
    cohort, old = Cohort.load(root), Vault.open(place)
    new = Vault(ahead, secrets.token_bytes(32))
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(ahead, ignore_errors=True)
    (beside / "cases").mkdir(parents=True)
    try:
        rename = {
            "patients": {name: new.patient(who) for name, who in old.known.get("patients", {}).items()},
            "cases": {name: new.case(what) for name, what in old.known.get("cases", {}).items()},
            "files": {name: new.file(where) for name, where in old.known.get("files", {}).items()},
            "series": {name: new.series(what) for name, what in old.known.get("series", {}).items()},
        }
        cases = [_case(case, cohort.root, beside, old, new, rename) for case in cohort.cases]
        splits = cohort.splits
        if splits is not None:
            folds = tuple(
                Split(
                    *(tuple(rename["patients"][p] for p in part) for part in (s.train, s.validation, s.test))
                )
                for s in splits.folds
            )
            splits = Splits(folds, splits.single, splits.group, splits.seed)
        write_cohort(beside, cohort.card, cases, splits)
        lines = []
        for line in (
            (root / "skipped.jsonl").read_text().splitlines() if (root / "skipped.jsonl").is_file() else ()
        ):
            entry = json.loads(line)
            lines.append(json.dumps({**entry, "file": _file(entry["file"], rename["files"])}) + "\n")
        (beside / "skipped.jsonl").write_text("".join(sorted(lines)))
        new.save()
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(ahead, ignore_errors=True)
        raise
    swap_folder(beside, root)
    swap_folder(ahead, place)
    return len(cases)


def _file(name: str, files: dict[str, str]) -> str:
    head, mark, frames = name.partition("#")
    if head not in files:
        raise InputError(f"the vault does not know the file {head}; this vault belongs to another cohort")
    return files[head] + mark + frames


def _case(
    case: Case, source: Path, target: Path, old: Vault, new: Vault, rename: dict[str, dict[str, str]]
) -> Case:
    """The case under its new names, its folder copied, its texts' dates moved as the new key says."""
    head, mark, lesion = case.case_id.partition("-")
    if head not in rename["cases"] or case.patient not in rename["patients"]:
        raise InputError(
            f"the vault does not know the case {case.case_id}; this vault belongs to another cohort"
        )
    case_id = rename["cases"][head] + mark + lesion
    (target / "cases" / case_id).mkdir()
    who = old.known["patients"][case.patient]
    days = new.shift_days(who) - old.shift_days(who)
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


def _facts(asset: Asset, rename: dict[str, dict[str, str]]) -> dict:
    facts = dict(asset.facts)
    if "series" in facts:
        facts["series"] = rename["series"][facts["series"]]
    return facts


def _files(asset: Asset, old: Vault, new: Vault, rename: dict[str, dict[str, str]]) -> tuple[str, ...] | dict:
    names = old.known["many"][asset.files["sha256"]] if isinstance(asset.files, dict) else asset.files
    renamed = tuple(sorted(_file(name, rename["files"]) for name in names))
    kept = files_field(renamed)
    if isinstance(kept, dict):
        new.many(kept["sha256"], renamed)
    return kept
