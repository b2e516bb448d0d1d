"""`mmvae evaluate|show`: evaluates checkpoints, and shows what a model sees of a case."""

from pathlib import Path

from mmvae.cli.commands import Commands, add_trust


def add_to(commands: Commands) -> None:
    """Adds the commands of this file."""
    p = commands.add("evaluate", _evaluate, "metrics by missing pattern, with intervals and plots")
    p.add_argument("--checkpoint", type=Path, nargs="+", required=True)
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--relevance", help="a single target in place of the card's graded relevance")
    add_trust(p)

    p = commands.add(
        "show", _show, "what each plugin sees of a case, and each modality decoded from the others"
    )
    p.add_argument("case")
    p.add_argument("--cohort", type=Path, required=True)
    p.add_argument("--checkpoint", type=Path)
    p.add_argument("--from", dest="sources", help="roles to decode from, e.g. t1,t2")
    p.add_argument("--out", type=Path, default=Path("show.html"))
    add_trust(p)


def _evaluate(a) -> int:
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


def _show(a) -> int:
    from mmvae.serve.show import show_case

    page = show_case(a.case, a.cohort, a.checkpoint, a.sources.split(",") if a.sources else None, a.out)
    print(page)
    return 0
