"""Memory of a scan over many small studies: resident size of the parent, sampled through the run.

python -m benchmarks.memory --studies 10000 --results benchmarks/results/memory.jsonl
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pydicom

from mmvae.ingest.scan import scan_studies
from mmvae.phantom.dicom import uid, write_phantom_studies


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=4, help="per study")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        _write(work, arguments.studies, arguments.files)
        sizes: list[float] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                sizes.append(_resident_mib())

        thread = threading.Thread(target=watch)
        thread.start()
        started = time.time()
        summary = scan_studies(work / "in", work / "out", jobs=arguments.jobs)
        seconds = time.time() - started
        stop.set()
        thread.join()
        quarter = max(1, len(sizes) // 4)
        measured = {
            "studies": summary.cases, "files": arguments.studies * arguments.files, "seconds": round(seconds, 1),
            "parent MiB by quarter of the run": [round(float(np.mean(sizes[i * quarter : (i + 1) * quarter])), 1) for i in range(4)],
            "parent MiB at most": round(max(sizes), 1), "KiB a study": round(1024 * (max(sizes) - sizes[0]) / arguments.studies, 2),
        }  # fmt: skip
        print(json.dumps(measured, indent=1))
        if arguments.results:
            arguments.results.write_text(
                json.dumps({"measurement": measured, "hardware": platform.machine()}) + "\n"
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _write(work: Path, studies: int, files: int) -> None:
    """Writes studies of a few 16 × 16 slices, each of its own patient."""
    write_phantom_studies(1, 1, work / "pattern", jobs=1)
    original = sorted(
        next(
            p
            for p in sorted(next((work / "pattern" / "studies").iterdir()).iterdir())
            if len(list(p.iterdir())) == 16
        ).iterdir()
    )[:files]
    data = [pydicom.dcmread(path) for path in original]
    for file in data:
        file.PixelData = file.pixel_array[::8, ::8].tobytes()
        file.Rows, file.Columns = 16, 16
        file.PixelSpacing = ["16", "16"]
    for study in range(studies):
        folder = work / "in" / f"{study // 100:03d}" / f"{study:05d}"
        folder.mkdir(parents=True)
        for number, file in enumerate(data):
            file.StudyInstanceUID, file.SeriesInstanceUID = uid("m", study), uid("m", study, "s")
            file.PatientID = f"M{study:06d}"
            file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = uid("m", study, number)
            file.save_as(folder / f"{number}.dcm")


if __name__ == "__main__":
    main()
