"""A run's output is ours or Lightning's progress, and nothing else."""

import logging
import os
import re
import subprocess
import sys
import warnings

import pytest

from mmvae.cli.quiet import quiet, shown

OURS = (
    r"run folder: \S+",
    r"role +class +weight +visible +supervision",
    r"\w+ +[A-Z]\w* +[\d.e+-]+ +[\d.]+ +\w+",
    r"\d+ training cases have none of the roles and are left out",
    r"best checkpoint: \S+",
    r"fewer than two labelled validation cases: val/mAP is logged as 0",
)
PROGRESS = (r"`Trainer\.fit` stopped: `max_epochs=\d+` reached\.", r"(Epoch|Validation|Training).*\d+/\d+.*")


def strange_lines(text):
    """Lines that are neither ours nor Lightning's progress."""
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    return [line for line in lines if line and not any(re.fullmatch(p, line) for p in (*OURS, *PROGRESS))]


RUN = """
import sys
from mmvae.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def said(phantom, tmp_path_factory):
    """Standard output and error of a fit of one epoch with every kind of role, as a user sees them."""
    from tests.conftest import small_yaml

    folder = tmp_path_factory.mktemp("said")
    (folder / "fit.yaml").write_text(small_yaml(phantom))
    (folder / "run").mkdir()
    (folder / "run" / "already").touch()
    command = [sys.executable, "-c", RUN, "fit", "-c", str(folder / "fit.yaml"), "--trainer.max_epochs=1"]
    command += ["--trainer.default_root_dir", str(folder / "run")]
    environment = {**os.environ, "WANDB_MODE": "offline"}  # of which transformers would speak
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_every_line_is_ours_or_progress(said):
    assert strange_lines("\n".join(said)) == []


def test_the_user_still_sees_folder_roles_and_best_checkpoint(said):
    for pattern in (
        r"run folder: \S+",
        r"terms +Terms +100 +0\.25 +findings",
        r"best checkpoint: \S+best\.ckpt",
    ):
        assert re.search(pattern, said[0])


@pytest.mark.parametrize(
    "planted",
    [
        "💡 Tip: For seamless cloud logging, try installing litlogger",
        "GPU available: False, used: False",
        "/x/_pytree.py:21: `isinstance(treespec, LeafSpec)` is deprecated, use `isinstance(treespec, TreeSpec)` instead.",
        "The 'train_dataloader' does not have many workers which may be a bottleneck.",
    ],
)
def test_a_planted_advertisement_is_found(said, planted):
    assert strange_lines("\n".join((*said, planted))) == [planted]


def test_only_what_is_named_is_kept_back(capsys):
    log = logging.getLogger("lightning.pytorch")
    handler = logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    try:
        with quiet(), warnings.catch_warnings(record=True) as caught:
            log.warning("💡 Tip: buy this")
            log.warning("the loss is rising")
            warnings.warn("something new", UserWarning, stacklevel=1)
    finally:
        log.removeHandler(handler)
    assert "rising" in capsys.readouterr().err
    assert [str(warning.message) for warning in caught] == ["something new"]
    with quiet(), pytest.warns(UserWarning, match="new"):
        warnings.warn("something new", UserWarning, stacklevel=1)


def test_the_library_s_log_is_printed_only_where_asked(capsys):
    with shown():
        logging.getLogger("mmvae.model.module").info("role")
    logging.getLogger("mmvae.model.module").info("later")
    assert capsys.readouterr().out == "role\n"
