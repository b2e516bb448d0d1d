"""`mmvae-bench run SUITE.yaml | rerun ROW | report | phantom | ceiling`: the suite from the command line."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

HELP = """mmvae-bench run SUITE.yaml --work W [--results R]       every cell of a grid that has not run yet
mmvae-bench rerun R.jsonl:LINE --work W [--seed S]      one cell again, from its row
mmvae-bench report --work W --results DIR               Markdown, HTML, plots, and the README's table
mmvae-bench phantom --seed S --work W [--results R]     the headline table on a phantom of any seed
mmvae-bench ceiling --seed S --work W                   the supervised ceilings alone"""


def _run(a) -> int:
    from benchmarks.suite import Suite, rows, run

    suite = Suite.read(a.suite)
    run(suite, a.work)
    lines = rows(suite, a.work)
    for row in lines:
        of_images = (m for key, m in row["metrics"].items() if key.split("|")[-1] == "group/images")
        value = next((m["mAP"]["value"] for m in of_images), None)
        print(f"{row['part']:<7} {row['cell']['cohort']} {row['supervision']} {row['config']['fusion']['class_path'].rsplit('.')[-1]} "
              f"{row['cell']['visibility']} seed {row['seed']}: images mAP {value}")  # fmt: skip
    if a.results:
        a.results.parent.mkdir(parents=True, exist_ok=True)
        a.results.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return 0


def _rerun(a) -> int:
    from benchmarks.cell import Cell, row_of

    name, _, line = a.row.rpartition(":")
    row = json.loads(Path(name).read_text().splitlines()[int(line) - 1])
    cell = Cell.of(row["cell"])
    cell = cell if a.seed is None else replace(cell, seed=a.seed)
    again = row_of(*cell.run(a.work))
    for key in sorted(row["metrics"]):
        if key.endswith("group/images") and "/" not in key.split("|")[-1].removeprefix("group/"):
            then, now = row["metrics"][key]["mAP"], again["metrics"][key]["mAP"]
            print(f"{key}: row {then['value']} ({then['low']}–{then['high']}), now {now['value']} ({now['low']}–{now['high']})")  # fmt: skip
    return 0


def _report(a) -> int:
    from benchmarks.report import write

    write(a.work, a.results, a.readme)
    return 0


def _headline(a) -> int:
    from benchmarks.headline import main as headline

    more = ["--results", str(a.results)] if a.results else []
    only = ["--only", "ceiling"] if a.command == "ceiling" else []
    headline(["--seed", str(a.seed), "--work", str(a.work), "--seeds", str(a.seeds), *more, *only])
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(
        "mmvae-bench", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="run|rerun|report|phantom|ceiling"
    )
    run = commands.add_parser("run", help="a grid; two processes on one folder share the work")
    run.add_argument("suite", type=Path)
    rerun = commands.add_parser("rerun", help="one cell again from its row")
    rerun.add_argument("row", help="results.jsonl:LINE, from 1")
    rerun.add_argument("--seed", type=int, help="of the training, instead of the row's")
    report = commands.add_parser("report", help="what the units in a work folder show")
    report.add_argument("--readme", type=Path, help="whose table between the two markers is refreshed")
    for name in ("phantom", "ceiling"):
        command = commands.add_parser(name, help="of a phantom of any seed")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--seeds", type=int, default=3, help="trainings per row")
    for name, command in commands.choices.items():
        command.add_argument(
            "--work", type=Path, required=True, help="cohorts, runs and units; what exists is kept"
        )
        if name in ("run", "phantom", "ceiling"):
            command.add_argument("--results", type=Path)
    report.add_argument(
        "--results", type=Path, required=True, help="folder for report.md, report.html and plots"
    )
    a = parser.parse_args(argv)
    action = {"run": _run, "rerun": _rerun, "report": _report, "phantom": _headline, "ceiling": _headline}
    try:
        return action[a.command](a)
    except ValueError as error:
        print(f"mmvae-bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
