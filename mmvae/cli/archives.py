"""`mmvae embed|index|search|migrate`: builds an index from cohorts, and searches it."""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mmvae.cli.commands import Commands, add_trust, bar, flag_of, printable, triple

if TYPE_CHECKING:  # each command imports what it runs
    from mmvae.retrieval.archive import Archive
    from mmvae.retrieval.index import Index
    from mmvae.retrieval.query import Query
    from mmvae.retrieval.search import Result


def add_to(commands: Commands) -> None:
    """Adds the commands of this file."""
    cores = os.cpu_count() or 1
    p = commands.add("embed", _embed, "checkpoint + cohort → experts and posterior means")
    p.add_argument("--checkpoint", type=Path, required=True, help="the model, from `mmvae fit`")
    p.add_argument("--cohort", type=Path, required=True, help="folder with card.json and cases.jsonl")
    p.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    p.add_argument("--as", dest="table", choices=["parquet"], help="a table of the same vectors beside them")
    add_trust(p)

    p = commands.add("index", _index, "build, add to, remove from, rebuild or look at an index")
    p.add_argument("action", choices=["build", "add", "remove", "rebuild", "info"])
    p.add_argument("what", nargs="*", help="embeddings (build, add) or case ids (remove)")
    p.add_argument("--out", type=Path, help="of build: folder that does not exist yet")
    p.add_argument("--index", type=Path, help="of all others: the index")
    p.add_argument("--checkpoint", type=Path, help="of rebuild: the model")
    p.add_argument("--cohort", type=Path, help="of rebuild: the cases")
    add_trust(p)

    p = commands.add("search", _search, "the cases most like this one")
    p.add_argument("--index", type=Path, required=True, help="folder from `mmvae index build`")
    p.add_argument(
        "--case", required=True, help="a case_id of the index, or of --cohort; or the folder of a DICOM study"
    )
    p.add_argument(
        "--lesion", type=triple, metavar="X,Y,Z", help="of a study folder: the lesion's point in LPS mm"
    )
    p.add_argument("--report", type=Path, help="of a study folder: its report's text")
    p.add_argument("--record", type=Path, help="of a study folder: its record as JSON")
    p.add_argument("--jobs", type=int, default=cores, help="processes that read a study folder")
    p.add_argument("--cohort", type=Path, help="query by a case of this cohort")
    p.add_argument("--using", help="roles, e.g. t2,dwi")
    p.add_argument("-k", type=int, default=10, help="number of neighbours")
    p.add_argument("--where", help="e.g. \"age_years > 50 and menopause == 'post'\"")
    p.add_argument("--archive", choices=["matched", "joint", "with_answers"], default="matched",
                   help="roles that form the archive's points: those of the query, all but answers, or all")  # fmt: skip
    p.add_argument("--engine", choices=["auto", "exact", "usearch"], default="auto",
                   help="exact search, or approximate by usearch (a joint archive without a filter)")  # fmt: skip
    p.add_argument("--json", action="store_true", help="the result as JSON")
    add_trust(p)

    p = commands.add("migrate", _migrate, "an index or embedding of an earlier release → this one's form")
    p.add_argument("path", type=Path, help="an index or embedding")
    add_trust(p)


def _embed(a: Namespace) -> int:
    from mmvae.cohort import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import embed_cohort, misfits
    from mmvae.retrieval.embedding import Embedding, write_parquet

    model, cohort = MMVAE.load_from_checkpoint(a.checkpoint), Cohort.load(a.cohort)
    for line in misfits(model, cohort, cohort.cases):
        print(line, file=sys.stderr)
    embed_cohort(model, a.checkpoint, cohort, a.out, bar("cases"))
    if a.table == "parquet":
        write_parquet(Embedding.load(a.out))
    print(f"{len(cohort.cases)} cases in {a.out}")
    return 0


def _index(a: Namespace) -> int:
    from mmvae.retrieval.embedding import Embedding
    from mmvae.retrieval.index import Index

    needed = {"build": ("what", "out"), "rebuild": ("index", "checkpoint", "cohort")}.get(
        a.action, ("index",)
    )
    if any(not getattr(a, name) for name in needed):
        a.command.error(
            f"expected `mmvae index {a.action}` with {', '.join(flag_of(a.command, n) for n in needed)}"
        )
    if a.action == "build":
        index = Index.build(Embedding.load(a.what[0]), a.out)
        print(f"{index.count()} cases in {a.out}")
        return 0
    index = Index.open(a.index)
    if a.action == "add":
        print(f"{sum(index.add(Embedding.load(folder)) for folder in a.what)} cases added")
    elif a.action == "remove":
        print(f"{index.remove(a.what)} cases removed")
    elif a.action == "rebuild":
        _rebuild(index, a.checkpoint, a.cohort)
    else:
        _print_info(index)
    return 0


def _rebuild(index: "Index", checkpoint: Path, cohort: Path) -> None:
    from mmvae.cohort import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import embed_cohort
    from mmvae.retrieval.embedding import Embedding

    model = MMVAE.load_from_checkpoint(checkpoint)
    with TemporaryDirectory(prefix=f".{index.root.name}.", dir=index.root.absolute().parent) as folder:
        embedding = Path(folder) / "embedding"
        embed_cohort(model, checkpoint, Cohort.load(cohort), embedding, bar("cases"))
        index.rebuild(Embedding.load(embedding))
    print(f"{index.count()} cases")


def _print_info(index: "Index") -> None:
    archive = index.snapshot()
    provenance = archive.provenance
    info = {
        "cases": len(archive),
        "fingerprint": provenance.fingerprint,
        "distance": archive.space.distance,
        "roles": provenance.roles,
        "answer_roles": provenance.answer_roles,
        "generation": archive.generation,
        "cohort": provenance.cohort,
    }
    print(json.dumps(info, indent=1))


def _migrate(a: Namespace) -> int:
    from mmvae.custody.migrate import migrate

    print(migrate(a.path))
    return 0


def _record(path: Path) -> dict[str, float | int | str]:
    """The record in a JSON file: a number or a word per field; null values are left out."""
    from mmvae.errors import InputError

    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name}: not readable JSON ({type(error).__name__})", "record") from error
    if not isinstance(plain, dict):
        raise InputError(f"{path.name}: expected an object of fields, found {type(plain).__name__}", "record")
    for name, value in plain.items():
        if value is not None and (not isinstance(value, int | float | str) or value != value):
            raise InputError(f"{path.name}: field {name!r} is neither a finite number nor a word", "record")
    return {name: value for name, value in plain.items() if value is not None}


def _search(a: Namespace) -> int:
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


def _query(a: Namespace, index: "Index", archive: "Archive") -> "Query":
    """The query: a case of the archive, a case of a cohort, or a study's folder."""
    from mmvae.cohort import Cohort
    from mmvae.model import MMVAE
    from mmvae.retrieval.query import query_from_archive, query_from_cohort, query_from_folder

    if Path(a.case).is_dir():
        model, record = MMVAE.load_from_checkpoint(index.checkpoint), _record(a.record) if a.record else {}
        return query_from_folder(archive, model, Path(a.case), a.lesion, a.report, record, a.jobs)
    if a.cohort is not None:
        cohort = Cohort.load(a.cohort)
        model = MMVAE.load_from_checkpoint(index.checkpoint)
        return query_from_cohort(archive, model, cohort, cohort.case(a.case))
    return query_from_archive(archive, a.case)


def _plain_result(result: "Result") -> dict:
    """The result as the JSON on which scripts rely (FORMATS: Commands)."""
    neighbours = [
        {"case_id": n.case_id, "distance": n.distance, "labels": dict(n.labels), "label_source": dict(n.label_source),
         "terms": n.terms, "missing": list(n.missing)}
        for n in result.neighbours
    ]  # fmt: skip
    return {"using": result.using, "archive": result.archive_roles, "archive_cases": result.archive_cases,
            "left_by_filter": result.left_by_filter, "neighbours": neighbours}  # fmt: skip


def _print_result(result: "Result") -> None:
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
