"""mmvae …: the command line. Each command imports only what it runs, so that `mmvae --help` stays under a second."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmvae import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is FORMATS.md's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in ("fit", "validate", "test"):
            from mmvae.fit import run

            run(argv)
            return 0
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("interrupted; nothing half written is left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        print(f"mmvae: {' '.join(str(error).split())}", file=sys.stderr)
        return status


def _status(error: BaseException) -> int | None:
    """Exit status of an error that the user can mend; None for a fault of ours, whose traceback is wanted."""
    from mmvae.case import InputError

    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ == "EmptyQuery":
            return 5
        if isinstance(seen, InputError):
            return 1
        seen = seen.__cause__
    return 1 if (isinstance(error, OSError) and error.errno in _NO_ROOM) or _database_is_full(error) else None


# Not permitted, file too large, no space left, read-only file system, quota exceeded.
_NO_ROOM = (errno.EACCES, errno.EFBIG, errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def _database_is_full(error: BaseException) -> bool:
    import sqlite3

    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    )


def _bar(title: str):
    """Wraps an iterator of known length in a progress bar on standard error."""

    def wrap(items, total: int | None = None):
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        return track(items, description=title, total=total, console=console, disable=not console.is_terminal)

    return wrap


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _triple(text: str) -> tuple[float, float, float]:
    x, y, z = (float(part) for part in text.split(","))
    return x, y, z


def _phantom(a) -> int:
    if a.form == "dicom":
        from mmvae.phantom.dicom import write_phantom_studies

        write_phantom_studies(
            a.cases, a.seed, a.out, a.jobs, a.prevalence, a.protocol, _bar("digital patients")
        )
        print(f"{a.cases} digital patients' studies in {a.out} (engineering, never clinical proof)")
        return 0
    from mmvae.phantom.cohort import write_phantom_cohort

    write_phantom_cohort(
        a.cases, a.seed, a.out, a.splits, a.jobs, a.prevalence, a.protocol, _bar("digital patients")
    )
    print(f"{a.cases} digital patients in {a.out} (engineering, never clinical proof)")
    return 0


def _scan(a) -> int:
    from mmvae.case import InputError
    from mmvae.ingest.mapping import read_map

    if a.splits and a.folds:
        raise InputError("--splits and --folds exclude each other; give one")
    if a.map is not None and read_map(a.map).led_by_table:
        from mmvae.ingest.scan import scan_table

        if a.records is None:
            raise InputError(
                "a MAP with `assets`, `case` or `patient` needs --records R.csv, the table that it speaks of"
            )
        count, skipped = scan_table(
            a.source,
            a.out,
            a.map,
            a.records,
            a.splits,
            a.folds,
            a.split_seed,
            a.jobs,
            a.strict,
            _bar("cases"),
        )
    else:
        from mmvae.ingest.study import scan_dicom

        made = scan_dicom(
            a.source,
            a.out,
            a.records,
            a.reports,
            a.lesions,
            a.map,
            a.override,
            a.splits,
            a.folds,
            a.split_seed,
            a.jobs,
            _bar("files"),
        )
        count, skipped = made.cases, made.skipped
        for note in made.notes:
            print(note, file=sys.stderr)
    by_code: dict[str, int] = {}
    for item in skipped:
        by_code[item.code] = by_code.get(item.code, 0) + 1
    left_out = ", ".join(f"{n} {code}" for code, n in sorted(by_code.items())) or "nothing"
    print(f"{count} cases; left out: {left_out}" + (" (see skipped.jsonl)" if skipped and count else ""))
    if count == 0:
        print(
            "mmvae: the scan found no case; SOURCE needs DICOM files of MR series, or a MAP whose file templates fit it",
            file=sys.stderr,
        )
        return 3
    return 4 if a.strict and skipped else 0


def _assign(a) -> int:
    from mmvae.ingest.assign import assign_cohort

    changed, unknown = assign_cohort(a.cohort, a.override)
    print(f"{changed} assets changed their kind; {unknown} are of no known kind")
    return 0


def _rekey(a) -> int:
    from mmvae.ingest.rekey import rekey

    print(
        f"{rekey(a.cohort)} cases and their vault have a new key; embeddings and indexes must be made again"
    )
    return 0


def _doctor(a) -> int:
    from mmvae.doctor import examine

    for finding in examine(a.index):
        print(
            f"{'ok   ' if finding.well else 'LACKS'}  {finding.what}: {finding.found}"
            + (f" → {finding.remedy}" if finding.remedy else "")
        )
    return 0


def _whereis(a) -> int:
    from mmvae.ingest.identity import Vault, vault_path

    print(Vault.open(vault_path(a.cohort)).whereis(a.file))
    return 0


def _embed(a) -> int:
    from mmvae.case import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import embed, misfits, write_embedding

    model, cohort = MMVAE.load_from_checkpoint(a.checkpoint), Cohort.load(a.cohort)
    for line in misfits(model, cohort, cohort.cases):
        print(line, file=sys.stderr)
    experts = embed(model, cohort, cohort.cases, progress=_bar("cases"))
    write_embedding(model, a.checkpoint, cohort, experts, a.out, parquet=a.table == "parquet")
    print(f"{len(experts.case_ids)} cases in {a.out}")
    return 0


def _index(a) -> int:
    from mmvae.case import Cohort, InputError
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import Embedding, embed, write_embedding
    from mmvae.retrieval.index import Index

    if a.action == "build":
        if len(a.what) != 1 or a.out is None:
            raise InputError("expected `mmvae index build E --out I`")
        made = Index.build(Embedding.load(a.what[0]), a.out)
        print(f"{made.count()} cases in {a.out}")
        return 0
    if a.index is None:
        raise InputError(f"`mmvae index {a.action}` needs --index I")
    index = Index.open(a.index)
    if a.action == "add":
        print(f"{sum(index.add(Embedding.load(one)) for one in a.what)} cases added")
    elif a.action == "remove":
        print(f"{index.remove(a.what)} cases removed")
    elif a.action == "rebuild":
        if a.cohort is None or a.checkpoint is None:
            raise InputError("`mmvae index rebuild` needs --checkpoint C and --cohort D")
        model, cohort = MMVAE.load_from_checkpoint(a.checkpoint), Cohort.load(a.cohort)
        beside = index.root.with_name(f".{index.root.name}.embedding")
        write_embedding(
            model, a.checkpoint, cohort, embed(model, cohort, cohort.cases, progress=_bar("cases")), beside
        )
        try:
            index.rebuild(Embedding.load(beside))
        finally:
            import shutil

            shutil.rmtree(beside, ignore_errors=True)
        print(f"{index.count()} cases")
    else:
        meta = index.meta()
        shown = {
            k: meta[k]
            for k in ("fingerprint", "distance", "roles", "answer_roles", "generation", "cohort")
            if k in meta
        }
        print(json.dumps({"cases": index.count(), **shown}, indent=1))
    return 0


def _record(path: Path) -> dict[str, float | int | str]:
    """A record as JSON: fields with a number or a word each; null is missing."""
    from mmvae.case import InputError

    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--record {path.name}: not readable JSON ({type(error).__name__})") from error
    if not isinstance(plain, dict):
        raise InputError(f"--record {path.name}: expected an object of fields, found {type(plain).__name__}")
    for name, value in plain.items():
        if value is not None and (not isinstance(value, int | float | str) or value != value):
            raise InputError(f"--record {path.name}: field {name!r} is no finite number and no word")
    return {name: value for name, value in plain.items() if value is not None}


def _search(a) -> int:
    from mmvae.case import Cohort
    from mmvae.retrieval.index import Index
    from mmvae.retrieval.search import query_from_cohort, query_from_index, search
    from mmvae.retrieval.where import parse_where

    index = Index.open(a.index)
    if Path(a.case).is_dir():
        from mmvae.retrieval.search import query_from_folder

        record = _record(a.record) if a.record else {}
        query, patient = query_from_folder(index, Path(a.case), a.lesion, a.report, record, a.jobs)
    elif a.cohort is not None:
        cohort = Cohort.load(a.cohort)
        query, patient = query_from_cohort(index, cohort, cohort.case(a.case))
    else:
        query, patient = query_from_index(index, a.case)
    fields = index.meta().get("fields") or None
    where = parse_where(a.where, fields) if a.where else None
    using = [role.strip() for role in a.using.split(",")] if a.using else None
    result = search(index, query, patient, a.k, using, a.archive, where, a.engine)
    found = result.neighbours
    if len(found) < a.k:
        print(
            f"-k {a.k} is more than the {len(found)} cases of other patients that can be compared; all are shown",
            file=sys.stderr,
        )
    if a.json:
        plain = [
            {"case_id": n.case_id, "distance": n.distance, "labels": dict(n.labels), "label_source": dict(n.label_source),
             "terms": n.terms, "missing": list(n.missing)}
            for n in found
        ]  # fmt: skip
        print(json.dumps({"using": result.using, "archive": result.archive, "archive_cases": result.archive_cases,
                          "left_by_filter": result.left_by_filter, "neighbours": plain}))  # fmt: skip
        return 0
    print(
        f"queried by {', '.join(result.using)}; {result.left_by_filter} of {result.archive_cases} cases after the filter; archive {result.archive}"
    )
    for rank, n in enumerate(found, 1):
        labels = (
            ", ".join(f"{k} {v} ({n.label_source.get(k, '?')})" for k, v in n.labels.items()) or "no label"
        )
        missing = f"; lacks {', '.join(n.missing)}" if n.missing else ""
        print(f"{rank:>3}  {n.case_id}  {n.distance:.4f}  {labels}{missing}")
    print("research software, not a medical device")
    return 0


def _evaluate(a) -> int:
    from mmvae.case import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.report import write_evaluation

    models = [MMVAE.load_from_checkpoint(path) for path in a.checkpoint]
    metrics = write_evaluation(models, Cohort.load(a.cohort), a.out, a.relevance)
    key = "full" if "full" in metrics else "late/full"
    for name, m in metrics[key].items():
        if m["value"] is not None:
            print(
                f"{key} {name} {m['value']:.3f} ({m['low']:.3f}–{m['high']:.3f}), chance {m['chance']:.3f}, n {m['n']}"
            )
    return 0


def _show(a) -> int:
    from mmvae.show import show_case

    written = show_case(a.case, a.cohort, a.checkpoint, a.sources.split(",") if a.sources else None, a.out)
    print(written)
    return 0


def _modalities(a) -> int:
    from mmvae.discovery import installed

    for one in installed().values():
        print(f"{one.name:<12} {one.path:<32} {one.distribution:<18} {one.version}")
    return 0


def _new_modality(a) -> int:
    from mmvae.scaffold import write_plugin

    print(
        f"wrote {write_plugin(a.name, a.out)}; install it with `pip install -e` and run its test with pytest"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmvae",
        description="Find the archive's cases most like this one. Research software, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"mmvae {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    cores = os.cpu_count() or 1
    p = command("phantom", _phantom, "digital patients with an adnexal mass, as a cohort")
    p.add_argument("--cases", type=int, required=True)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--as", dest="form", choices=["nifti", "dicom"], default="nifti")
    p.add_argument("--splits", type=_numbers, help="training,validation,test patients")
    p.add_argument("--jobs", type=int, default=cores)
    p.add_argument("--prevalence", choices=["balanced", "clinical"], default="balanced")
    p.add_argument("--protocol", choices=["quick", "full"], default="quick")

    p = command(
        "scan", _scan, "a folder of DICOM studies, or of NIfTI, .npz or pictures with a table → a cohort"
    )
    p.add_argument("source", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--map", type=Path)
    p.add_argument("--records", type=Path)
    p.add_argument("--reports", type=Path, help="folder of <AccessionNumber or PatientID>.txt")
    p.add_argument("--lesions", type=Path, help="table of case,x_mm,y_mm,z_mm")
    p.add_argument("--override", type=Path, help="table of F_or_series,kind")
    p.add_argument("--splits", type=_numbers)
    p.add_argument("--folds", type=int)
    p.add_argument("--split-seed", type=int, default=0)
    p.add_argument("--jobs", type=int, default=cores)
    p.add_argument("--strict", action="store_true")

    p = command("assign", _assign, "ask again which kind each series is, e.g. after installing a plugin")
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--override", type=Path, help="table of F_or_series,kind")

    p = command("rekey", _rekey, "vault and cohort under a new key")
    p.add_argument("--cohort", type=Path, required=True)

    p = command("doctor", _doctor, "what this machine lacks, each with its remedy")
    p.add_argument("--index", type=Path, help="an index whose file system is looked at")

    p = command("whereis", _whereis, "the source path behind an F, from the vault")
    p.add_argument("file")
    p.add_argument("--cohort", type=Path, required=True)

    for name, text in (
        ("fit", "train (LightningCLI: -c YAML, --print_config, --help)"),
        ("validate", "validate a checkpoint"),
        ("test", "test a checkpoint"),
    ):
        commands.add_parser(name, help=text, add_help=False)

    p = command("embed", _embed, "checkpoint + cohort → experts and posterior means")
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--as", dest="table", choices=["parquet"])

    p = command("index", _index, "build, add to, remove from, rebuild or look at an index")
    p.add_argument("action", choices=["build", "add", "remove", "rebuild", "info"])
    p.add_argument("what", nargs="*", help="embeddings (build, add) or case ids (remove)")
    p.add_argument("--out", type=Path)
    p.add_argument("--index", type=Path)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--cohort", type=Path)

    p = command("search", _search, "the cases most like this one")
    p.add_argument("--index", type=Path, required=True)
    p.add_argument(
        "--case", required=True, help="a case_id of the index, or of --cohort; or the folder of a DICOM study"
    )
    p.add_argument(
        "--lesion", type=_triple, metavar="X,Y,Z", help="of a study folder: the lesion's point in LPS mm"
    )
    p.add_argument("--report", type=Path, help="of a study folder: its report's text")
    p.add_argument("--record", type=Path, help="of a study folder: its record as JSON")
    p.add_argument("--jobs", type=int, default=cores)
    p.add_argument("--cohort", type=Path, help="query by a case of this cohort")
    p.add_argument("--using", help="roles, e.g. t2,dwi")
    p.add_argument("-k", type=int, default=10)
    p.add_argument("--where", help="e.g. \"age_years > 50 and menopause == 'post'\"")
    p.add_argument("--archive", choices=["matched", "joint", "with_answers"], default="matched")
    p.add_argument("--engine", choices=["auto", "exact", "usearch"], default="auto")
    p.add_argument("--json", action="store_true")

    p = command("evaluate", _evaluate, "metrics by missing pattern, with intervals and plots")
    p.add_argument("--checkpoint", type=Path, nargs="+", required=True)
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--relevance", help="one target instead of the card's graded list")

    p = command("show", _show, "what each plugin sees of a case, and each modality decoded from the others")
    p.add_argument("case")
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--from", dest="sources", help="roles to decode from, e.g. t1,t2")
    p.add_argument("--out", type=Path, default=Path("show.html"))

    command("modalities", _modalities, "installed modalities; imports none of them")
    p = command("new-modality", _new_modality, "a plugin that passes conformance as it stands")
    p.add_argument("name")
    p.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
