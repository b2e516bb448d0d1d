"""`mmvae evaluate|show`: evaluates checkpoints, and shows what a model sees of a case."""

from argparse import Namespace
from pathlib import Path

from mmvae.cli.commands import Commands, add_trust


def add_to(commands: Commands) -> None:
    """Adds the commands of this file."""
    p = commands.add("evaluate", _evaluate, "metrics by missing pattern, with intervals and plots")
    p.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        required=True,
        help="one, one per fold, or one per role (late fusion)",
    )
    p.add_argument("--cohort", type=Path, required=True, help="the cohort that it was trained on")
    p.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    p.add_argument("--relevance", help="a single target in place of the card's graded relevance")
    add_trust(p)

    p = commands.add(
        "show", _show, "what each plugin sees of a case, and each modality decoded from the others"
    )
    p.add_argument("case", help="a case_id of the cohort")
    p.add_argument("--cohort", type=Path, required=True, help="folder with card.json and cases.jsonl")
    p.add_argument("--checkpoint", type=Path, help="a model that decodes each role from the others")
    p.add_argument("--from", dest="sources", help="roles to decode from, e.g. t1,t2")
    p.add_argument("--out", type=Path, default=Path("show.html"), help="the page (show.html)")
    add_trust(p)


def _evaluate(a: Namespace) -> int:
    from mmvae.cohort import Cohort
    from mmvae.evaluation.report import write_evaluation
    from mmvae.model import MMVAE

    models = [MMVAE.load_from_checkpoint(path) for path in a.checkpoint]
    estimates = write_evaluation(models, Cohort.load(a.cohort), a.out, a.relevance)
    key = "full" if "full" in estimates else "late/full"
    for name, m in estimates[key].items():
        if m.value is not None:
            print(f"{key} {name} {m.value:.3f} ({m.low:.3f}–{m.high:.3f}), chance {m.chance:.3f}, n {m.n}")
    return 0


def _show(a: Namespace) -> int:
    from mmvae.serve.show import show_case

    page = show_case(a.case, a.cohort, a.checkpoint, a.sources.split(",") if a.sources else None, a.out)
    print(page)
    return 0
