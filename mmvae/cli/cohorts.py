"""`mmvae phantom|scan|assign|rekey|whereis`: makes cohorts from sources, and looks up pseudonyms."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from mmvae.cli.commands import Commands, bar, numbers

if TYPE_CHECKING:
    from mmvae.ingest.summary import ScanSummary


def add_to(commands: Commands) -> None:
    """Adds the commands of this file."""
    cores = os.cpu_count() or 1
    p = commands.add("phantom", _phantom, "digital patients with an adnexal mass, as a cohort")
    p.add_argument("--cases", type=int, required=True, help="number of patients")
    p.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    p.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    p.add_argument("--as", dest="form", choices=["nifti", "dicom"], default="nifti",
                   help="a cohort of NIfTI volumes, or DICOM studies with their tables")  # fmt: skip
    p.add_argument("--splits", type=numbers, help="training,validation,test patients")
    p.add_argument("--jobs", type=int, default=cores, help="processes; all cores unless given")
    p.add_argument(
        "--prevalence", choices=["balanced", "clinical"], default="balanced", help="of the classes"
    )
    p.add_argument(
        "--protocol", choices=["quick", "full"], default="quick", help="series and their resolution"
    )

    p = commands.add(
        "scan", _scan, "a folder of DICOM studies, or of NIfTI, .npz or pictures with a table → a cohort"
    )
    p.add_argument("source", type=Path, help="folder, searched at any depth")
    p.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    p.add_argument("--map", type=Path, help="YAML file that says what the table's columns and files are")
    p.add_argument("--records", type=Path, help="table of the patients' records")
    p.add_argument("--reports", type=Path, help="folder of <AccessionNumber or PatientID>.txt")
    p.add_argument("--lesions", type=Path, help="table of case,x_mm,y_mm,z_mm")
    p.add_argument("--override", type=Path, help="table of F_or_series,kind")
    p.add_argument(
        "--splits", type=numbers, help="training,validation,test patients; 60/15/25 %% unless given"
    )
    p.add_argument("--folds", type=int, help="cross-validation folds instead of one split")
    p.add_argument("--split-seed", type=int, default=0, help="order in which patients are drawn")
    p.add_argument("--jobs", type=int, default=cores, help="processes; all cores unless given")
    p.add_argument("--strict", action="store_true", help="exit with status 4 if a file was left out")

    p = commands.add(
        "assign", _assign, "assign the kind of each series again, e.g. after installing a plugin"
    )
    p.add_argument("--cohort", type=Path, required=True, help="folder with card.json and cases.jsonl")
    p.add_argument("--override", type=Path, help="table of F_or_series,kind")

    p = commands.add("rekey", _rekey, "vault and cohort under a new key")
    p.add_argument("--cohort", type=Path, required=True, help="folder with card.json and cases.jsonl")

    p = commands.add("whereis", _whereis, "the source path behind an F, from the vault")
    p.add_argument("file", help="an F from cases.jsonl or skipped.jsonl")
    p.add_argument("--cohort", type=Path, required=True, help="folder with card.json and cases.jsonl")


def _phantom(a: Namespace) -> int:
    if a.form == "dicom":
        from mmvae.phantom.dicom import write_phantom_studies

        write_phantom_studies(
            a.cases, a.seed, a.out, a.jobs, a.prevalence, a.protocol, bar("digital patients")
        )
        print(f"{a.cases} digital patients' studies in {a.out} (engineering, never clinical proof)")
        return 0
    from mmvae.phantom.cohort import write_phantom_cohort

    write_phantom_cohort(
        a.cases, a.seed, a.out, a.splits, a.jobs, a.prevalence, a.protocol, bar("digital patients")
    )
    print(f"{a.cases} digital patients in {a.out} (engineering, never clinical proof)")
    return 0


def _scan(a: Namespace) -> int:
    from mmvae.errors import InputError
    from mmvae.ingest.skipped import count_by_code, count_of_codes

    if a.splits and a.folds:
        raise InputError("a cohort has splits or folds; give one of the two", "folds")
    summary = _scan_table(a) if _led_by_table(a) else _scan_studies(a)
    for remark in summary.remarks:
        print(remark, file=sys.stderr)
    where = " (see skipped.jsonl)" if summary.skipped else ""
    print(f"{summary.cases} cases; left out: {count_by_code(summary.skipped)}{where}")
    if summary.notes:
        print(f"used with a doubt: {count_of_codes(note.code for note in summary.notes)} (see notes.jsonl)")
    return 4 if a.strict and summary.skipped else 0


def _led_by_table(a: Namespace) -> bool:
    from mmvae.ingest.table.map import read_map

    return a.map is not None and read_map(a.map).led_by_table


def _scan_table(a: Namespace) -> "ScanSummary":
    from mmvae.errors import InputError
    from mmvae.ingest.table.scan import scan_table

    if a.records is None:
        raise InputError(
            "a MAP with `assets`, `case` or `patient` needs a table, and none is given", "records"
        )
    return scan_table(
        a.source, a.out, a.map, a.records, a.splits, a.folds, a.split_seed, a.jobs, progress=bar("cases")
    )


def _scan_studies(a: Namespace) -> "ScanSummary":
    from mmvae.ingest.scan import scan_studies

    return scan_studies(
        a.source, a.out, a.records, a.reports, a.lesions, a.map, a.override, a.splits, a.folds, a.split_seed, a.jobs,
        progress=bar("files"),
    )  # fmt: skip


def _assign(a: Namespace) -> int:
    from mmvae.ingest.assign import assign_cohort

    changed, unknown = assign_cohort(a.cohort, a.override)
    print(f"{changed} assets changed their kind; {unknown} are of no known kind")
    return 0


def _rekey(a: Namespace) -> int:
    from mmvae.custody.rekey import rekey

    print(
        f"{rekey(a.cohort)} cases and their vault have a new key; embeddings and indexes must be built again"
    )
    return 0


def _whereis(a: Namespace) -> int:
    from mmvae.identity.vault import Vault, vault_path

    path = Vault.open(vault_path(a.cohort)).whereis(a.file)
    print(path.encode(errors="surrogateescape").decode(errors="backslashreplace"))  # a path may be no UTF-8
    return 0
