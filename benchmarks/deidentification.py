"""How many planted identifiers the cleaning of report text leaves, and how many words that identify nobody it takes.

Invented reports (`written_reports`) are cleaned with their study's header and without any; openi's real reports, which identify nobody,
with an invented stranger's header and without. The measure itself first finds everything in the texts as they are, and nothing in blanks.

python -m benchmarks.deidentification --reports 5000 --results benchmarks/results/deidentification.jsonl
"""

import argparse
import json
import os
import platform
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.left_shares import Measured, check_measure, shares_of, within_limits
from benchmarks.what_is_left import compare, words_lost
from benchmarks.written_reports import Report, write_report

SHIFT_DAYS = -211
# Text and the header that helps (None: no help) to the text that is kept.
Cleaning = Callable[[str, Report | None], str]


def cleaned(text: str, header: Report | None) -> str:
    """The text as `mmvae` keeps it: the one place that knows the rules' signature."""
    from mmvae.identity.text import clean_text

    return clean_text(text, header.headers if header else [], SHIFT_DAYS)


def uncleaned(text: str, header: Report | None) -> str:
    """The text as it is: everything planted must be found in it."""
    return text


def blanked(text: str, header: Report | None) -> str:
    """Nothing: nothing planted may be found in it."""
    return ""


def measure(number: int, seed: int, cleaning: Cleaning) -> Measured:
    """One invented report, cleaned both ways."""
    report = write_report(seed, number)
    return Measured(
        report,
        compare(report, cleaning(report.text, report)),
        compare(report, cleaning(report.text, None)),
    )


def measure_real(task: tuple[int, str], seed: int) -> list[tuple[int, int]]:
    """(gone, words) of a real report that identifies nobody, with a stranger's header and without."""
    number, text = task
    return [words_lost(text, cleaned(text, header)) for header in (write_report(seed, number), None)]


def openi_texts(data: Path) -> list[str]:
    """The text of every report of openi_reports (its README gives the format), sections in their order."""
    texts = []
    with tarfile.open(data / "openi_reports" / "ecgen-radiology-dev.tar.xz") as archive:
        for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
            file = archive.extractfile(member)
            assert file is not None
            sections = ElementTree.parse(file).iter("AbstractText")
            texts.append("\n".join(f"{s.get('Label')}: {s.text}" for s in sections if s.text))
    return [text for text in texts if text]


def examples(measured: Sequence[Measured], count: int) -> list[str]:
    """Identifiers left and words taken, of invented reports only."""
    left, taken = [], []
    for n, m in enumerate(measured):
        for way in ("helped", "alone"):
            outcome = getattr(m, way)
            found = [i for i, x in zip(m.report.identifiers, outcome.left) if x]
            left += [f"left, {way:6} {n:5} {i.kind:16} {i.culture:12} held {i.held!s:5} {_around(m.report.text, i.start, i.end)}" for i in found]  # fmt: skip
            taken += [f"taken, {way:6} {n:5} {_around(m.report.text, *span)}" for span in outcome.gone]
    rng = np.random.default_rng(0)
    return [
        line
        for lines in (left, taken)
        for line in (lines[k] for k in sorted(rng.permutation(len(lines))[:count]))
    ]


def _around(text: str, start: int, end: int) -> str:
    before, after = text[max(0, start - 30) : start], text[end : end + 30]
    return repr(f"{before}«{text[start:end]}»{after}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--examples", type=int, default=0, help="so many identifiers left and words taken are printed"
    )
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("MMVAE_DATA"), help="where openi_reports lies"
    )
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    numbers = range(arguments.reports)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:

        def run(task: Callable, over: Sequence) -> list:
            return list(pool.map(task, over, chunksize=50))

        raw, blank, measured = (
            run(partial(measure, seed=arguments.seed, cleaning=c), numbers)
            for c in (uncleaned, blanked, cleaned)
        )
        control = check_measure(raw, blank)
        real = None
        if arguments.data:
            texts = openi_texts(Path(arguments.data))
            real = run(partial(measure_real, seed=arguments.seed), list(enumerate(texts)))
        else:
            print(
                "openi's reports are not measured: neither --data nor $MMVAE_DATA says where they lie",
                file=sys.stderr,
            )
    row = {
        "reports": arguments.reports,
        "seed": arguments.seed,
        "control": control,
        **shares_of(measured, real),
    }
    print(json.dumps(row, indent=1))
    for line in examples(measured, arguments.examples):
        print(line)
    if arguments.results:
        arguments.results.write_text(json.dumps({"measurement": row, "hardware": platform.machine()}) + "\n")
    sys.exit(0 if within_limits(row) else 1)


if __name__ == "__main__":
    main()
