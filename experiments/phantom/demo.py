"""`make demo`: digital patients → fit → embed → index → evaluate → example queries → demo/index.html, in one process.

python experiments/phantom/demo.py --out demo
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmvae.case import Case
from mmvae.cohort import Cohort
from mmvae.ingest.scan import scan_studies
from mmvae.phantom.dicom import write_phantom_studies
from mmvae.phantom.patient import orads, population
from mmvae.phantom.words import reading

if (
    TYPE_CHECKING
):  # torch takes seconds to import: what needs it is imported after the first lines are printed
    from mmvae.model import MMVAE
    from mmvae.retrieval.index import Index

CASES, EPOCHS = 400, 30  # of `make demo`
Step = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is asked of the demo.

    Args:
        out: Folder that it leaves; what is there is replaced.
        cases: Digital patients.
        splits: Training, validation and test patients.
        epochs: Of the fit; None: those of demo.yaml.
        seed: Of patients and splits.
    """

    out: Path
    cases: int
    splits: tuple[int, ...]
    epochs: int | None
    seed: int


@dataclass(frozen=True)
class Example:
    """A study in a folder that stays, for a search by a study that the index does not know, and its lesion's point."""

    study: Path
    lesion: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    settings = _settings(argv)
    started = time.time()

    def step(text: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {text}", flush=True)

    print(_announcement(settings), flush=True)
    shutil.rmtree(settings.out, ignore_errors=True)
    settings.out.mkdir(parents=True)
    example = write_cohort(settings, step)
    checkpoint = fit(settings, step)
    cohort = Cohort.load(settings.out / "cohort")
    model, index = embed_and_index(settings, cohort, checkpoint, step)
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Path(folder) / "evaluation"
        metrics = evaluate(settings, model, cohort, evaluation, step)
        write_index_html(settings, model, cohort, index, metrics, evaluation, example, step)
    full = metrics["full"]["P@5"]
    times_chance = full["value"] / full["chance"]
    step(f"full-case P@5 {full['value']:.3f} = {times_chance:.1f} × chance; open {settings.out}/index.html")


def _settings(argv: Sequence[str] | None) -> Settings:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="replaced if it exists")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument(
        "--splits",
        help="training, validation and test patients, e.g. 240,60,100; 60, 15 and 25 % unless given",
    )
    parser.add_argument("--epochs", type=int, help=f"{EPOCHS} unless given")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    splits = tuple(int(n) for n in a.splits.split(",")) if a.splits else _shares(a.cases)
    return Settings(a.out, a.cases, splits, a.epochs, a.seed)


def _shares(cases: int) -> tuple[int, int, int]:
    train, validation = round(0.6 * cases), round(0.15 * cases)
    return train, validation, cases - train - validation


def _announcement(settings: Settings) -> str:
    """How long the demo takes, what it needs and what it leaves."""
    default = (settings.cases, settings.epochs or EPOCHS) == (CASES, EPOCHS)
    how_long = "about 8 minutes on 2 idle cores, 12 at most"
    takes = "This takes" if default else f"With {CASES} cases and {EPOCHS} epochs this takes"
    gigabytes = 2.5 * settings.cases / CASES
    return (
        f"{takes} {how_long}, and {gigabytes:.1f} GB of disk for a while.\n"
        f"It leaves in {settings.out}/: index.html (open it at the end), metrics.json, cohort, cohort.vault, run (with best.ckpt), "
        "embedding, archive (the index), and source (tables and one study, to search by)."
    )


def write_cohort(settings: Settings, step: Step) -> Example:
    """Simulates the studies, scans them into `cohort`, and gives the one study that stays."""
    out, source, cores = settings.out, settings.out / "source", os.cpu_count() or 1
    step(f"{settings.cases} digital patients as the DICOM studies of four vendors")
    write_phantom_studies(settings.cases, settings.seed, source, cores)
    step("scan: studies, records, reports and lesion points become a cohort")
    summary = scan_studies(
        source / "studies",
        out / "cohort",
        records=source / "records.csv",
        reports=source / "reports",
        lesions=source / "lesions.csv",
        map_path=source / "map.yaml",
        splits=settings.splits,
        split_seed=settings.seed,
        jobs=cores,
    )
    step("; ".join([f"{summary.cases} cases, {len(summary.skipped)} files left out", *summary.notes]))
    # 400 studies are 2.5 GB: one stays.
    study, *others = sorted((source / "studies").iterdir())
    for other in others:
        shutil.rmtree(other)
    kappa = _kappa(settings.seed)
    step(f"one reader's O-RADS score agrees with the truth at kappa {kappa:.2f} (published readers: .73)")
    return Example(study, _lesion(source, study.name))


def _lesion(source: Path, patient: str) -> tuple[str, ...]:
    """The lesion's point in LPS mm, as the table has it."""
    rows = (line.split(",") for line in (source / "lesions.csv").read_text().splitlines())
    return next(tuple(row[1:4]) for row in rows if row[0] == patient)


def _kappa(seed: int) -> float:
    """Cohen's κ over 2,000 patients of the same seed: on 400 the sampling error alone is .02."""
    from sklearn.metrics import cohen_kappa_score

    rng, patients = np.random.default_rng(0), population(2000, seed)
    return float(cohen_kappa_score([p.orads for p in patients], [orads(reading(p, rng)) for p in patients]))


def fit(settings: Settings, step: Step) -> Path:
    """Trains by demo.yaml and gives the best checkpoint."""
    # transformers draws a bar for the language model that the report's recipe loads; this is read when it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch

    from mmvae.cli.fit import run

    threads = torch.get_num_threads()
    step(f"fit, {threads} thread{'s' if threads > 1 else ''}")
    arguments = ["fit", "-c", str(Path(__file__).with_name("demo.yaml"))]
    arguments += ["--data.cohort", str(settings.out / "cohort")]
    arguments += ["--trainer.default_root_dir", str(settings.out / "run")]
    if settings.epochs:
        arguments += ["--trainer.max_epochs", str(settings.epochs)]
        arguments += ["--trainer.check_val_every_n_epoch", str(min(5, settings.epochs))]
    run(arguments)
    return settings.out / "run" / "best.ckpt"


def embed_and_index(
    settings: Settings, cohort: Cohort, checkpoint: Path, step: Step
) -> "tuple[MMVAE, Index]":
    """Writes `embedding` and `archive`; gives the model and the index."""
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import embed, provenance_of
    from mmvae.retrieval.embedding import Embedding, write_embedding
    from mmvae.retrieval.facts import Facts
    from mmvae.retrieval.index import Index

    step("embed and index")
    out, model = settings.out, MMVAE.load_from_checkpoint(checkpoint)
    experts = embed(model, cohort, cohort.cases)
    facts = tuple(Facts.of(case) for case in cohort.cases)
    write_embedding(out / "embedding", provenance_of(model, cohort), experts, facts, checkpoint)
    return model, Index.build(Embedding.load(out / "embedding"), out / "archive")


def evaluate(
    settings: Settings, model: "MMVAE", cohort: Cohort, evaluation: Path, step: Step
) -> dict[str, Any]:
    """What metrics.json holds; it is left in the demo's folder, the plots in `evaluation`."""
    from mmvae.evaluation.report import write_evaluation

    step("evaluate every subset of the roles")
    write_evaluation([model], cohort, evaluation)
    shutil.copyfile(evaluation / "metrics.json", settings.out / "metrics.json")
    return json.loads((settings.out / "metrics.json").read_text())


def write_index_html(
    settings: Settings,
    model: "MMVAE",
    cohort: Cohort,
    index: "Index",
    metrics: dict[str, Any],
    evaluation: Path,
    example: Example,
    step: Step,
) -> None:
    """The page of example queries, with the commands that repeat them."""
    from mmvae.retrieval.query import query_from_archive
    from mmvae.retrieval.search import search
    from mmvae.serve.page import Answer, Words, write_page

    step("example queries")
    archive, cases = index.snapshot(), _first_of_four_classes(cohort)
    answers = [Answer(c, search(archive, query_from_archive(archive, c.case_id), k=5)) for c in cases]
    words = Words(
        "Cases like this one", _lead(settings, metrics), _commands(settings, cases[0], example), "histology"
    )
    plots = {
        "Every subset of the roles as the query": evaluation / "subsets.png",
        "By histology": evaluation / "classes.png",
        "The space of unseen cases": evaluation / "map.png",
    }
    write_page(settings.out / "index.html", words, model, cohort, answers, metrics, plots)


def _first_of_four_classes(cohort: Cohort) -> list[Case]:
    """The first test case of each of four classes, in the order of the test list: nobody chose them."""
    first: dict[Any, Case] = {}
    for case in cohort.split("test"):
        first.setdefault(case.labels["histology"], case)
    return list(first.values())[:4]


def _lead(settings: Settings, metrics: dict[str, Any]) -> str:
    full = metrics["full"]["P@5"]
    percent = {name: f"{100 * full[name]:.0f}" for name in ("value", "low", "high", "chance")}
    archive = metrics["protocol"]["archive"]
    return (
        f"{settings.cases} simulated women with an adnexal mass; the model learnt from {settings.splits[0]}. Asked with a whole "
        f"case it has not seen, {percent['value']} % of the five nearest {archive} cases have the same histology (95 % interval "
        f"{percent['low']}–{percent['high']} %, chance {percent['chance']} %). Below: each query and its five nearest of all other "
        "patients in the archive."
    )


def _commands(settings: Settings, case: Case, example: Example) -> str:
    out, point = settings.out, ",".join(example.lesion)
    return (
        f"mmvae search --index {out}/archive --case {case.case_id} --using t2,dwi -k 5\n"
        f"mmvae show {case.case_id} --cohort {out}/cohort --checkpoint {out}/run/best.ckpt\n"
        f"mmvae search --index {out}/archive --case {example.study} --lesion={point} -k 5"
    )


if __name__ == "__main__":
    main()
