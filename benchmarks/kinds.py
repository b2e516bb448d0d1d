"""How surely series get their kind: answered and wrong over the threshold, on real series labelled by hand and on phantoms.

python -m benchmarks.kinds --data $MMVAE_DATA --work runs/kinds --results benchmarks/results/kinds
"""

import argparse
import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmvae.cohort import Cohort
from mmvae.identity.vault import Vault, vault_path
from mmvae.ingest.claims import claims_of
from mmvae.ingest.scan import scan_studies
from mmvae.phantom.dicom import write_phantom_studies

TABLE = Path(__file__).parents[1] / "tests" / "tables" / "series_by_hand.csv"
SOURCES = {"zoo": "dicom_zoo", "prostate": "prostate_mpmri_dicom"}
THRESHOLDS = (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
Answer = tuple[str, str | None, float]


def real(data: Path, work: Path) -> list[Answer]:
    """(kind by hand or "", kind by rule, confidence) of each real series."""
    rows, answers = list(csv.DictReader(TABLE.open())), []
    for name, folder in SOURCES.items():
        root = work / name
        if not root.exists():
            scan_studies(data / folder, root, jobs=os.cpu_count() or 1)
        vault = Vault.open(vault_path(root))
        for case in Cohort.load(root).cases:
            for asset in case.assets:
                if asset.type != "volume":
                    continue
                names = (
                    vault.known["many"][asset.files["sha256"]]
                    if isinstance(asset.files, dict)
                    else asset.files
                )
                # Of two equal files the table may list the other one: any file of the series identifies it.
                places = [vault.whereis(f.split("#")[0]) for f in names]
                by_hand = next(
                    r["kind"]
                    for r in rows
                    if r["source"] == name and any(p.startswith(r["folder"]) for p in places)
                )
                sure, kind = claims_of({**asset.facts, "type": asset.type})[0]
                answers.append((by_hand, kind, sure))
    return answers


def phantom(work: Path, cases: int = 24) -> list[Answer]:
    """(true kind, kind by rule, confidence) of each series of the phantom's four vendors.

    The true kind is what the series was written as, which its b-values, phases and echo time show.
    """
    if not (work / "phantom").exists():
        write_phantom_studies(cases, 17, work / "source", jobs=os.cpu_count() or 1)
        scan_studies(work / "source" / "studies", work / "phantom", jobs=os.cpu_count() or 1)
    answers = []
    for case in Cohort.load(work / "phantom").cases:
        for asset in case.assets:
            if asset.type == "volume":
                facts = asset.facts
                truth = (
                    "dwi"
                    if "DiffusionBValue" in facts
                    else "contrast"
                    if "PhaseTime_s" in facts
                    else "t2"
                    if facts["EchoTime"] > 60
                    else "t1"
                )
                sure, kind = claims_of({**facts, "type": asset.type})[0]
                answers.append((truth, kind, sure))
    return answers


def curve(answers: Sequence[Answer]) -> list[dict]:
    """For each threshold, the share of series with a kind that are answered, and how many of all answers are wrong."""
    known = [a for a in answers if a[0]]
    return [
        {
            "threshold": t,
            "answered": sum(a[2] >= t for a in known) / len(known),
            "wrong": sum(a[2] >= t and a[1] != a[0] for a in answers),
            "series": len(answers),
        }
        for t in THRESHOLDS
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tables = {
        "real series, by hand": curve(real(arguments.data, arguments.work)),
        "phantom's four vendors": curve(phantom(arguments.work)),
    }
    text = []
    for name, rows in tables.items():
        text += [
            f"{name} ({rows[0]['series']} series)",
            "",
            "| threshold | answered | wrong |",
            "| --- | --- | --- |",
        ]
        text += [f"| {r['threshold']} | {r['answered']:.2f} | {r['wrong']} |" for r in rows] + [""]
    print("\n".join(text))
    if arguments.results:
        arguments.results.with_suffix(".jsonl").write_text(
            "".join(json.dumps({"measurement": {"table": n, "curve": r}}) + "\n" for n, r in tables.items())
        )
        arguments.results.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
