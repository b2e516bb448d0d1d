"""Mutated DICOM files: none may crash the scan, take over 5 s, or need over 1 GiB more than its size; each is skipped for a reason.

python -m benchmarks.broken --files 20000 --results benchmarks/results/broken.jsonl
"""

import argparse
import json
import platform
import random
import resource
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from mmvae.ingest.dicom.header import read_header
from mmvae.ingest.dicom.pixels import read_frames
from mmvae.ingest.skipped import SKIP_CODES, Unusable
from mmvae.ingest.workers import TaskFailure, Workers
from mmvae.phantom.dicom import write_phantom_studies

KINDS = ("bits", "cut", "length", "nesting", "vr", "huge", "zeros", "swap")


def mutated(data: bytes, kind: str, rng: random.Random) -> bytes:
    """One mutation of a file's bytes; most leave the pixels where they are."""
    changed, size = bytearray(data), len(data)
    header = min(size, max(200, data.rfind(b"\xe0\x7f\x10\x00")))
    if kind == "bits":
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            changed[rng.randrange(128, size)] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        changed = (
            changed[: rng.randrange(132, size)]
            if rng.random() < 0.6
            else changed[: size - rng.randrange(1, max(2, (size - header) // 2))]
        )
    elif kind == "length":
        at = rng.randrange(132, header - 4)
        changed[at : at + 2] = struct.pack("<H", rng.choice((0, 1, 255, 4096, 65535)))
    elif kind == "nesting":
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff"
        at = rng.randrange(132, header)
        changed[at:at] = b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff" + item * rng.choice((3, 50, 2000))
    elif kind == "vr":
        places = [
            i
            for i in range(132, header - 8)
            if bytes(changed[i : i + 2]) in (b"US", b"DS", b"IS", b"UI", b"CS", b"LO", b"FD", b"SQ")
        ]
        if places:
            at = rng.choice(places)
            changed[at : at + 2] = rng.choice((b"UN", b"SQ", b"FD", b"US", b"AT", b"ZZ", b"OB"))
    elif kind == "huge":
        for tag in (
            b"\x28\x00\x10\x00US\x02\x00",
            b"\x28\x00\x11\x00US\x02\x00",
            b"\x28\x00\x00\x01US\x02\x00",
        ):
            at = bytes(changed).find(tag)
            if at > 0 and rng.random() < 0.6:
                changed[at + 8 : at + 10] = struct.pack("<H", rng.choice((0, 1, 7, 32768, 65535)))
    elif kind == "zeros":
        at = rng.randrange(132, size)
        changed[at : at + rng.randrange(1, 4000)] = b"\0" * min(4000, rng.randrange(1, 4000))
    else:
        a, b, n = rng.randrange(132, size), rng.randrange(132, size), rng.randrange(1, 200)
        changed[a : a + n], changed[b : b + n] = changed[b : b + n], changed[a : a + n]
    return bytes(changed)


def examine(path: Path) -> tuple[str, bool, float, int]:
    """Code (or `used`), whether pixels were asked for, seconds, and the growth of memory in bytes."""
    started, before, reached = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, False
    try:
        header = read_header(path, 0)
        if header.frames:
            reached = True
            read_frames(path, list(header.frames))
        code = "used"
    except Unusable as error:
        code = error.code
    return (
        code,
        reached,
        time.monotonic() - started,
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024,
    )


def encoded(path: Path, folder: Path) -> list[Path]:
    """The file in every other transfer syntax that the scan decodes, so that mutations reach the native codecs too."""
    import gdcm

    files = []
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        data = pydicom.dcmread(path)
        data.compress(syntax, generate_instance_uid=False)
        files.append(folder / f"{path.stem}-{syntax}.dcm")
        data.save_as(files[-1])
    for syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        data = pydicom.dcmread(path)
        if syntax.is_little_endian is False:
            data.PixelData = data.pixel_array.astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = syntax
        files.append(folder / f"{path.stem}-{syntax}.dcm")
        pydicom.dcmwrite(
            files[-1], data, little_endian=syntax.is_little_endian, implicit_vr=False, force_encoding=True
        )
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(path))
    reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    change.Change()
    files.append(folder / f"{path.stem}-jpeg.dcm")
    writer.SetFileName(str(files[-1]))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.Write()
    return files


def sources(folder: Path, more: Sequence[Path]) -> list[Path]:
    """Small files of each vendor's layout, some of them in every transfer syntax, and the files `more`."""
    write_phantom_studies(8, 11, folder / "phantom", jobs=1)
    studies = sorted((folder / "phantom" / "studies").iterdir())
    plain = [next(series.glob("*.dcm")) for study in studies for series in sorted(study.iterdir())]
    (folder / "encoded").mkdir()
    single = [
        path for path in plain if "NumberOfFrames" not in pydicom.dcmread(path, stop_before_pixels=True)
    ]
    return plain + [file for path in single[::4] for file in encoded(path, folder / "encoded")] + list(more)


def run(files: int, seed: int, more: Sequence[Path], jobs: int = 1) -> dict:
    """How many mutated files were used, skipped for each reason, or ended the process that read them.

    Args:
        files: How many to mutate.
        seed: Of the mutations.
        more: Originals beside the phantom's.
        jobs: Processes that read.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        originals = [p.read_bytes() for p in sources(folder, more)]
        rng, count_of, slowest, growth, reached = random.Random(seed), Counter(), 0.0, 0, 0

        def items() -> Iterator[tuple[Path, int]]:
            for number in range(files):
                data = mutated(rng.choice(originals), KINDS[number % len(KINDS)], rng)
                path = folder / f"{number}.dcm"
                path.write_bytes(data)
                yield path, len(data)

        with Workers(jobs) as workers:
            for path, answer in workers.run(examine, items(), lambda _: 5.0, 1 << 30):
                path.unlink()
                if isinstance(answer, TaskFailure):
                    count_of[answer.why] += 1
                    continue
                code, pixels, seconds, grown = answer
                count_of[code] += 1
                reached += pixels
                slowest, growth = max(slowest, seconds), max(growth, grown)
        # What asked for more memory than its limit was refused, as a scan refuses it; what ended its process or hung is a fault.
        bad = sum(count_of[why] for why in count_of if why not in (*SKIP_CODES, "used", "too much memory"))
        return {"files": files, "reached pixel decoding": reached / files, "codes": dict(count_of), "crashed, hung or raised": bad,
                "slowest s": round(slowest, 3), "largest growth MiB": round(growth / 2**20, 1)}  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--more",
        type=Path,
        help="a folder of other DICOM files under 300 kB to mutate too, e.g. a robustness set",
    )
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    more = (
        [p for p in sorted(arguments.more.rglob("*.dcm")) if p.stat().st_size < 300_000]
        if arguments.more
        else []
    )
    measured = run(arguments.files, arguments.seed, more, arguments.jobs)
    print(json.dumps(measured, indent=1))
    if arguments.results:
        line = {
            "measurement": measured,
            "seed": arguments.seed,
            "originals": "phantom" + (f" and {len(more)} others" if more else ""),
            "hardware": platform.machine(),
        }
        arguments.results.write_text(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
