"""Filters the output of a run: shows our own lines and Lightning's progress, and hides other libraries' tips and warnings.

Each hidden line is listed here, so that new ones stay visible.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Beginnings of those lines of Lightning's log that are useless to a user of mmvae.
UNSAID = (
    "Seed set to ",
    "GPU available: ",
    "TPU available: ",
    "HPU available: ",
    "IPU available: ",
    "💡 Tip: ",
    "Loading `train_dataloader` to estimate number of stepping batches.",
    "You are using a CUDA device",
    "`weights_only` was not set",
    "Restoring states from the checkpoint path at ",
    "Restored all states from the checkpoint at ",
    "Loaded model weights from the checkpoint at ",
)

# Warnings about things that the user did not cause. `data.workers: 0` is our default and best on two cores; each run has its own
# folder; the pytree warning concerns torch and Lightning; jsonargparse's concerns Lightning.
UNWARNED = (
    r"The '\w+' does not have many workers which may be a bottleneck",
    r"Checkpoint directory .* exists and is not empty",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"LightningCLI's args parameter is intended to run from within Python",
    r"\s*``\w+`` was deprecated in v4\.\d+\.\d+ and will be removed in v5\.0\.0",
    r"No seed found, seed set to 0",
    r"Trying to infer the `batch_size` from an ambiguous collection",
    r"You're resuming from a checkpoint that ended before the epoch ended",
    r"The dirpath has changed from ",
)


class _LineFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(UNSAID)


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which the lines and warnings of `UNSAID` and `UNWARNED` are hidden, and everything else is shown."""
    line_filter = _LineFilter()
    handlers = [
        handler
        for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning")
        for handler in logging.getLogger(name).handlers
    ]
    for handler in handlers:
        handler.addFilter(line_filter)
    try:
        with warnings.catch_warnings():
            for message in UNWARNED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(line_filter)


@contextmanager
def shown() -> Iterator[None]:
    """A context in which the log of mmvae's library is printed."""
    ours, handler = logging.getLogger("mmvae"), logging.StreamHandler(sys.stdout)
    level = ours.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
