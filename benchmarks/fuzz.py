"""Coverage-guided mutation (libFuzzer by atheris, `pip install atheris`) of the reading of one DICOM file: it may raise `Unusable` only.

It begins with the phantom's files in every transfer syntax but JPEG's, whose only codec (gdcm) ends its process by assertions on broken
streams: the workers have to survive that one (`benchmarks.broken`).

python -m benchmarks.fuzz --seconds 600 --results benchmarks/results/fuzz.jsonl
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """The command line."""
    import atheris

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    corpus = work / "corpus"
    corpus.mkdir()
    with atheris.instrument_imports(include=["mmvae.ingest", "pydicom"]):  # before anything else imports them
        from mmvae.ingest.dicom import header as dicom
        from mmvae.ingest.dicom import pixels
        from mmvae.ingest.skipped import Unusable
    from benchmarks.broken import sources

    for number, path in enumerate(p for p in sources(work, ()) if not p.name.endswith("-jpeg.dcm")):
        (corpus / str(number)).write_bytes(path.read_bytes())
    count_of, started, file = {"runs": 0, "reached pixels": 0}, time.time(), work / "input.dcm"

    def read(data: bytes) -> None:
        if time.time() - started > arguments.seconds:
            _end(count_of, arguments)
        count_of["runs"] += 1
        file.write_bytes(data)
        try:
            header = dicom.read_header(file, 0)
            if header.frames:
                count_of["reached pixels"] += 1
                pixels.read_frames(file, list(header.frames))
        except Unusable:
            pass

    atheris.Setup([sys.argv[0], str(corpus), "-max_len=200000", "-timeout=5", "-rss_limit_mb=2048"], read)
    atheris.Fuzz()


def _end(count_of: dict, arguments: argparse.Namespace) -> None:
    """Reports and ends; it is reached only where no run crashed, hung or raised another error, at which libFuzzer stops."""
    measured = {**count_of, "seconds": arguments.seconds, "crashed, hung or raised": 0}
    print(json.dumps(measured))
    if arguments.results:
        arguments.results.write_text(
            json.dumps({"measurement": measured, "hardware": platform.machine()}) + "\n"
        )
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
