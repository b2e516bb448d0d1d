"""`make demo`: digital patients → fit → embed → index → evaluate → example queries → demo/index.html, in one process.

python experiments/phantom/demo.py --out demo
"""

import argparse
import os
import shutil
import time
from pathlib import Path

import numpy as np

from mmvae.cohort import Cohort
from mmvae.ingest.scan import scan_studies
from mmvae.phantom.dicom import write_phantom_studies
from mmvae.phantom.patient import orads, population
from mmvae.phantom.words import reading


def main() -> None:
    """See the module's first lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--splits", default="240,60,100")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out, started = arguments.out, time.time()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    def step(text: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {text}", flush=True)

    step(f"{arguments.cases} digital patients as the DICOM studies of four vendors")
    splits, cores, source = (
        tuple(int(n) for n in arguments.splits.split(",")),
        os.cpu_count() or 1,
        out / "source",
    )
    write_phantom_studies(arguments.cases, arguments.seed, source, cores)
    step("scan: studies, records, reports and lesion points become a cohort")
    made = scan_studies(
        source / "studies", out / "cohort", source / "records.csv", source / "reports", source / "lesions.csv", source / "map.yaml",
        splits=splits, split_seed=arguments.seed, jobs=cores,
    )  # fmt: skip
    step(f"{made.cases} cases, {len(made.skipped)} files left out; " + "; ".join(made.notes))
    # 400 studies are 2.5 GB: one stays, for a search by a study folder.
    example, *others = sorted((source / "studies").iterdir())
    for study in others:
        shutil.rmtree(study)
    step(
        f"one reader's O-RADS score agrees with the truth at kappa {_kappa(arguments.seed):.2f} (published readers: .73)"
    )

    import torch

    step(f"fit, {torch.get_num_threads()} threads")
    from mmvae.cli.fit import run

    more = []
    if arguments.epochs:
        more = ["--trainer.max_epochs", str(arguments.epochs), "--trainer.check_val_every_n_epoch", str(min(5, arguments.epochs))]  # fmt: skip
    run(["fit", "-c", str(Path(__file__).with_name("demo.yaml")), "--data.cohort", str(out / "cohort"),
         "--trainer.default_root_dir", str(out / "run"), *more])  # fmt: skip

    from mmvae.evaluation.report import write_evaluation
    from mmvae.model import MMVAE
    from mmvae.retrieval.embed import embed
    from mmvae.retrieval.embedding import Embedding, write_embedding
    from mmvae.retrieval.index import Index
    from mmvae.retrieval.query import query_from_index
    from mmvae.retrieval.search import search
    from mmvae.serve.page import Answered, write_page

    cohort, checkpoint = Cohort.load(out / "cohort"), out / "run" / "best.ckpt"
    model = MMVAE.load_from_checkpoint(checkpoint)
    step("embed and index")
    write_embedding(model, checkpoint, cohort, embed(model, cohort, cohort.cases), out / "embedding")
    index = Index.build(Embedding.load(out / "embedding"), out / "archive")
    step("evaluate every subset of the roles")
    metrics = write_evaluation([model], cohort, out / "evaluation")
    shutil.copyfile(out / "evaluation" / "metrics.json", out / "metrics.json")
    step("example queries")
    # The first test case of each of four classes, in the order of the test list: nobody chose them.
    chosen, seen = [], set()
    for case in cohort.split("test"):
        if case.labels["histology"] not in seen and len(chosen) < 4:
            chosen.append(case)
            seen.add(case.labels["histology"])
    answered = []
    for case in chosen:
        query, patient = query_from_index(index, case.case_id)
        answered.append(Answered(case, search(index, query, patient, k=5)))
    command = f"mmvae search --index {out}/archive --case {chosen[0].case_id} --using t2,dwi -k 5\nmmvae show {chosen[0].case_id} --cohort {out}/cohort --checkpoint {out}/run/best.ckpt\n"
    point = ",".join(str(v) for v in _lesion(source, example.name))
    command += f"mmvae search --index {out}/archive --case {example} --lesion={point} -k 5"
    full = metrics["full"]["P@5"]
    lead = (
        f"{arguments.cases} simulated women with an adnexal mass; the model learnt from {splits[0]}. Asked with a whole case it has not seen, "
        f"{100 * full['value']:.0f} % of the five nearest unseen cases have the same histology (95 % interval {100 * full['low']:.0f}–{100 * full['high']:.0f} %, "
        f"chance {100 * full['chance']:.0f} %). Below: each query and its five nearest of all other patients in the archive."
    )
    plots = {
        "Every subset of the roles as the query": out / "evaluation" / "subsets.png",
        "By histology": out / "evaluation" / "classes.png",
        "The space of unseen cases": out / "evaluation" / "map.png",
    }
    write_page(
        out / "index.html",
        "Cases like this one",
        lead,
        model,
        cohort,
        answered,
        metrics,
        plots,
        command,
        "histology",
    )
    step(
        f"full-case P@5 {full['value']:.3f} = {full['value'] / full['chance']:.1f} × chance; open {out}/index.html"
    )


def _lesion(source: Path, patient: str) -> tuple[str, ...]:
    rows = (line.split(",") for line in (source / "lesions.csv").read_text().splitlines())
    return next(tuple(row[1:4]) for row in rows if row[0] == patient)


def _kappa(seed: int) -> float:
    """Over 2,000 patients of the same seed: on 400 the sampling error alone is .02."""
    from sklearn.metrics import cohen_kappa_score

    rng, patients = np.random.default_rng(0), population(2000, seed)
    return float(cohen_kappa_score([p.orads for p in patients], [orads(reading(p, rng)) for p in patients]))


if __name__ == "__main__":
    main()
