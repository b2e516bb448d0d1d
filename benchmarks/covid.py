"""covid_cxr as a source that `mmvae scan` takes: X-ray rows, and their notes with every disease's name masked.

python -m benchmarks.covid --data $MMVAE_DATA/covid_cxr --out runs/covid/source
"""

import argparse
import csv
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

MASK = "[finding]"
# What the notes call the diseases beside the names in the table.
ALIASES = (
    r"sars[- ]?cov[- ]?2", r"covid(?:[- ]?19)?", r"(?:novel )?corona ?virus(?:es)?(?: disease)?", r"2019[- ]?n ?cov", r"n-?cov", r"sars", r"mers(?:-cov)?",
    r"ards", r"acute respiratory distress syndrome", r"influenza(?: a)?", r"h1n1", r"rsv", r"herpes\w*", r"varicella", r"pneumocystis(?: jirovecii| carinii)?", r"pcp",
    r"streptococc\w*", r"pneumococc\w*", r"klebsiella", r"legionell\w*", r"e\.? ?coli", r"staphylococc\w*", r"mrsa", r"mycoplasma\w*", r"chlamyd\w*", r"nocardia\w*",
    r"tubercul\w*", r"asperg\w*", r"fung\w*", r"bacteri\w*", r"virus\w*", r"viral", r"lipoid", r"no finding", r"normal chest",
)  # fmt: skip


def masked(note: str, findings: Iterable[str]) -> str:
    """The note without any disease's name: those of the table, and what else they are called."""
    names = [
        re.escape(part.strip()) for finding in findings for part in re.split(r"[,/]", finding) if part.strip()
    ]
    every = sorted({*names, *ALIASES}, key=len, reverse=True)
    return re.sub(rf"(?<!\w)(?:{'|'.join(every)})(?!\w)", MASK, note, flags=re.I)


def write_source(data: Path, out: Path) -> int:
    """Writes `images/`, `notes/` and `table.csv` to `out`; gives the number of pictures."""
    with (data / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        every = list(csv.DictReader(stream))
    rows, findings = [r for r in every if r["modality"] == "X-ray"], {r["finding"] for r in every}
    (out / "images").mkdir(parents=True)
    (out / "notes").mkdir()
    for row in rows:
        shutil.copy(data / "images" / row["image"], out / "images" / row["image"])
        if row["clinical_notes"].strip():
            (out / "notes" / f"{row['image']}.txt").write_text(
                masked(row["clinical_notes"], findings) + "\n", encoding="utf-8"
            )
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return len(rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(f"{write_source(arguments.data, arguments.out)} radiographs")


if __name__ == "__main__":
    main()
