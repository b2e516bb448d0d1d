"""Time from files to cohort over its floor: {dcmread + pixel_array + gzip level 1 of the volumes written}, same files, same cores, interleaved.

python -m benchmarks.scan_speed --studies 24 --jobs 2 --results benchmarks/results/scan_speed.jsonl
"""

import argparse
import gzip
import json
import platform
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pydicom

from mmvae.cohort import Cohort
from mmvae.ingest.scan import scan_studies
from mmvae.phantom.dicom import write_phantom_studies, write_study
from mmvae.phantom.patient import population


def floor(task: tuple[Path, list[Path], Path]) -> None:
    """Reads and decodes one study's files, and compresses and writes again the volumes that the scan wrote."""
    study, volumes, out = task
    for path in study.rglob("*.dcm"):
        _ = pydicom.dcmread(path).pixel_array
    for number, path in enumerate(volumes):
        (out / f"{study.name}-{number}.gz").write_bytes(gzip.compress(np.load(path).tobytes(), 1, mtime=0))


def rate(protocol: str, count: int, root: Path) -> float:
    """Studies that one core writes in a second, without start-up: the first is not counted."""
    for name in ("studies", "reports"):
        (root / name).mkdir(parents=True)
    first, *others = population(count + 1, 5)
    write_study(first, 5, root, protocol)
    started = time.process_time()
    for patient in others:
        write_study(patient, 5, root, protocol)
    per_second = count / (time.process_time() - started)
    shutil.rmtree(root)
    return round(per_second, 2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        rates = {}
        for protocol, count in (("quick", 8), ("full", 4)):
            each = sorted(rate(protocol, count, work / protocol) for _ in range(arguments.rounds))
            rates[protocol] = {"median": each[len(each) // 2], "rounds": each}
        print(json.dumps(rates), flush=True)
        write_phantom_studies(arguments.studies, 3, work / "in", arguments.jobs)
        files = sum(1 for _ in (work / "in" / "studies").rglob("*.dcm"))
        scan_studies(work / "in" / "studies", work / "first", jobs=arguments.jobs)
        tasks = _tasks(work)
        ratios = []
        for number in range(arguments.rounds):
            started = time.time()
            scan_studies(work / "in" / "studies", work / f"c{number}", jobs=arguments.jobs)
            ours = time.time() - started
            (work / f"f{number}").mkdir()
            started = time.time()
            with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
                list(pool.map(floor, [(s, v, work / f"f{number}") for s, v in tasks]))
            theirs = time.time() - started
            ratios.append(ours / theirs)
            print(
                f"round {number}: scan {ours:.1f} s, floor {theirs:.1f} s, ratio {ours / theirs:.2f}",
                flush=True,
            )
        measured = {"studies": arguments.studies, "files": files, "jobs": arguments.jobs, "ratio median": float(np.median(ratios)),
                    "ratios": [round(r, 3) for r in ratios], "phantom studies/s/core": rates}  # fmt: skip
        print(json.dumps(measured))
        if arguments.results:
            arguments.results.write_text(
                json.dumps({"measurement": measured, "hardware": platform.machine()}) + "\n"
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _tasks(work: Path) -> list[tuple[Path, list[Path]]]:
    """Each study with the raw volumes of its case, uncompressed, so that the floor's compressor does the same work."""
    import nibabel

    raw = work / "raw"
    raw.mkdir()
    studies, tasks = sorted((work / "in" / "studies").iterdir()), []
    for study, case in zip(studies, Cohort.load(work / "first").cases):
        volumes = []
        for asset in case.assets:
            if asset.type == "volume":
                volumes.append(raw / f"{case.case_id}-{len(volumes)}.npy")
                np.save(volumes[-1], np.asanyarray(nibabel.load(work / "first" / asset.uri).dataobj))
        tasks.append((study, volumes))
    return tasks


if __name__ == "__main__":
    main()
