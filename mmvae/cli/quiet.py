"""What a run shows: our own lines and Lightning's progress, without other libraries' advertisements and warnings.

Each line that is kept back is named here, so that a new one is seen.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# How the lines of Lightning's log begin that tell a user of mmvae nothing.
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

# Warnings that are not about what the user did. `data.workers: 0` is our default and best on two cores; the run's folder is its
# own; the pytree warning is between torch and Lightning; jsonargparse's is between Lightning and itself.
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


class _Unsaid(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(UNSAID)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it, what `UNSAID` and `UNWARNED` name is kept back; everything else is shown as it comes."""
    unsaid = _Unsaid()
    handlers = [
        handler
        for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning")
        for handler in logging.getLogger(name).handlers
    ]
    for handler in handlers:
        handler.addFilter(unsaid)
    try:
        with warnings.catch_warnings():
            for message in UNWARNED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(unsaid)


@contextmanager
def shown() -> Iterator[None]:
    """Within it, what mmvae's library logs is printed."""
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
