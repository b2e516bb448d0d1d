"""`mmvae embed|index|search|migrate`: builds an index from cohorts, and searches it."""

import json
import os
import sys
from pathlib import Path

from mmvae.cli.commands import Commands, add_trust, bar, printable, triple


def add_to(commands: Commands) -> None:
    """Adds the commands of this file."""
    cores = os.cpu_count() or 1
    p = commands.add("embed", _embed, "checkpoint + cohort → experts and posterior means")
    p.add_argument("--checkpoint", type=Path, required=True)
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--as", dest="table", choices=["parquet"])
    add_trust(p)

    p = commands.add("index", _index, "build, add to, remove from, rebuild or look at an index")
    p.add_argument("action", choices=["build", "add", "remove", "rebuild", "info"])
    p.add_argument("what", nargs="*", help="embeddings (build, add) or case ids (remove)")
    p.add_argument("--out", type=Path)
    p.add_argument("--index", type=Path)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--cohort", type=Path)
    add_trust(p)

    p = commands.add("search", _search, "the cases most like this one")
    p.add_argument("--index", type=Path, required=True)
    p.add_argument(
        "--case", required=True, help="a case_id of the index, or of --cohort; or the folder of a DICOM study"
    )
    p.add_argument(
        "--lesion", type=triple, metavar="X,Y,Z", help="of a study folder: the lesion's point in LPS mm"
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
    add_trust(p)

    p = commands.add("migrate", _migrate, "an index or embedding of an earlier release → this one's form")
    p.add_argument("path", type=Path)
    add_trust(p)


def _embed(a) -> int:
    from mmvae.cohort import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import misfits
    from mmvae.retrieval.embedding import Embedding, write_parquet

    model, cohort = MMVAE.load_from_checkpoint(a.checkpoint), Cohort.load(a.cohort)
    for line in misfits(model, cohort, cohort.cases):
        print(line, file=sys.stderr)
    _write_embedding(model, a.checkpoint, cohort, a.out)
    if a.table == "parquet":
        write_parquet(Embedding.load(a.out))
    print(f"{len(cohort.cases)} cases in {a.out}")
    return 0


def _write_embedding(model, checkpoint: Path, cohort, out: Path) -> None:
    from mmvae.retrieval.embed import embed, provenance_of
    from mmvae.retrieval.embedding import write_embedding
    from mmvae.retrieval.facts import Facts

    experts = embed(model, cohort, cohort.cases, progress=bar("cases"))
    facts = tuple(Facts.of(case) for case in cohort.cases)
    write_embedding(out, provenance_of(model, cohort), experts, facts, checkpoint)


def _index(a) -> int:
    from mmvae.cohort import Cohort
    from mmvae.errors import InputError
    from mmvae.model import MMVAE
    from mmvae.retrieval.embedding import Embedding
    from mmvae.retrieval.index import Index

    if a.action == "build":
        if len(a.what) != 1 or a.out is None:
            raise InputError("expected `mmvae index build E --out I`")
        index = Index.build(Embedding.load(a.what[0]), a.out)
        print(f"{index.count()} cases in {a.out}")
        return 0
    if a.index is None:
        raise InputError(f"`mmvae index {a.action}` needs --index I")
    index = Index.open(a.index)
    if a.action == "add":
        print(f"{sum(index.add(Embedding.load(folder)) for folder in a.what)} cases added")
    elif a.action == "remove":
        print(f"{index.remove(a.what)} cases removed")
    elif a.action == "rebuild":
        if a.cohort is None or a.checkpoint is None:
            raise InputError("`mmvae index rebuild` needs --checkpoint C and --cohort D")
        model, cohort = MMVAE.load_from_checkpoint(a.checkpoint), Cohort.load(a.cohort)
        beside = index.root.with_name(f".{index.root.name}.embedding")
        try:
            _write_embedding(model, a.checkpoint, cohort, beside)
            index.rebuild(Embedding.load(beside))
        finally:
            import shutil

            shutil.rmtree(beside, ignore_errors=True)
        print(f"{index.count()} cases")
    else:
        archive = index.snapshot()
        provenance = archive.provenance
        shown = {
            "cases": len(archive),
            "fingerprint": provenance.fingerprint,
            "distance": archive.space.distance,
            "roles": provenance.roles,
            "answer_roles": provenance.answer_roles,
            "generation": archive.generation,
            "cohort": provenance.cohort,
        }
        print(json.dumps(shown, indent=1))
    return 0


def _migrate(a) -> int:
    from mmvae.custody.migrate import migrate

    print(migrate(a.path))
    return 0


def _record(path: Path) -> dict[str, float | int | str]:
    """The record in a JSON file: a number or a word per field; null values are left out."""
    from mmvae.errors import InputError

    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--record {path.name}: not readable JSON ({type(error).__name__})") from error
    if not isinstance(plain, dict):
        raise InputError(f"--record {path.name}: expected an object of fields, found {type(plain).__name__}")
    for name, value in plain.items():
        if value is not None and (not isinstance(value, int | float | str) or value != value):
            raise InputError(f"--record {path.name}: field {name!r} is neither a finite number nor a word")
    return {name: value for name, value in plain.items() if value is not None}


def _search(a) -> int:
    from mmvae.retrieval.filter import parse_where
    from mmvae.retrieval.index import Index
    from mmvae.retrieval.search import search

    index = Index.open(a.index)
    archive = index.snapshot()
    query = _query(a, index, archive)
    where = parse_where(a.where, archive.provenance.fields or None) if a.where else None
    using = [role.strip() for role in a.using.split(",")] if a.using else None
    result = search(archive, query, a.k, using, a.archive, where, a.engine)
    if len(result.neighbours) < a.k:
        print(
            f"-k {a.k} is more than the {len(result.neighbours)} cases of other patients that can be compared; all are shown",
            file=sys.stderr,
        )
    if a.json:
        print(json.dumps(_plain_result(result)))
    else:
        _print_result(result)
    return 0


def _query(a, index, archive):
    """The query: a case of the archive, a case of a cohort, or a study's folder."""
    from mmvae.cohort import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.query import query_from_archive, query_from_cohort, query_from_folder

    if Path(a.case).is_dir():
        model, record = MMVAE.load_from_checkpoint(index.checkpoint), _record(a.record) if a.record else {}
        return query_from_folder(model, Path(a.case), a.lesion, a.report, record, a.jobs)
    if a.cohort is not None:
        cohort = Cohort.load(a.cohort)
        return query_from_cohort(MMVAE.load_from_checkpoint(index.checkpoint), cohort, cohort.case(a.case))
    return query_from_archive(archive, a.case)


def _plain_result(result) -> dict:
    """The result as the JSON on which scripts rely (FORMATS: Commands)."""
    neighbours = [
        {"case_id": n.case_id, "distance": n.distance, "labels": dict(n.labels), "label_source": dict(n.label_source),
         "terms": n.terms, "missing": list(n.missing)}
        for n in result.neighbours
    ]  # fmt: skip
    return {"using": result.using, "archive": result.archive_roles, "archive_cases": result.archive_cases,
            "left_by_filter": result.left_by_filter, "neighbours": neighbours}  # fmt: skip


def _print_result(result) -> None:
    print(
        f"queried by {', '.join(result.using)}; {result.left_by_filter} of {result.archive_cases} cases after the filter; "
        f"archive {result.archive_roles}"
    )
    for rank, n in enumerate(result.neighbours, 1):
        labels = (
            ", ".join(f"{k} {v} ({n.label_source.get(k, '?')})" for k, v in n.labels.items()) or "no label"
        )
        missing = f"; lacks {', '.join(n.missing)}" if n.missing else ""
        line = f"{n.case_id}  {n.distance:.4f}  {labels}{missing}".replace("\n", " ")
        print(f"{rank:>3}  {printable(line)}")
    print("research software, not a medical device")
