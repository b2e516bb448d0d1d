"""Every class that a committed row names still loads, with the arguments that the row names."""

import json
from pathlib import Path

import pytest

from mmvae.errors import InputError
from mmvae.latent.fusion import Fusion
from mmvae.latent.objective import Objective
from mmvae.modality import Modality
from mmvae.plain import from_plain

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
KINDS = {"modalities": Modality, "fusion": Fusion, "objective": Objective}
FILES = sorted(path for path in RESULTS.glob("*.jsonl") if '"class_path"' in path.read_text())


def named_in(plain, kind=None):
    """(kind, class path with arguments) of every class within a row; short names are the suite's own spelling."""
    if isinstance(plain, list):
        for value in plain:
            yield from named_in(value, kind)
    elif isinstance(plain, dict):
        if "." in plain.get("class_path", ""):
            yield kind, plain
            return
        for name, value in plain.items():
            yield from named_in(value, KINDS.get(name, kind))


def load(path):
    """Each distinct class of a file, loaded."""
    distinct = {}
    for line in path.read_text().splitlines():
        for kind, plain in named_in(json.loads(line)):
            distinct[json.dumps(plain, sort_keys=True)] = kind, plain
    # The benchmark's own modality is loaded only where a user trusts its module.
    ours = [
        (kind, plain)
        for kind, plain in distinct.values()
        if not plain["class_path"].startswith("benchmarks.")
    ]
    return [from_plain(plain, kind) for kind, plain in ours]


def test_the_rows_name_classes():
    assert len(FILES) > 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_class_of_a_committed_row_loads(path):
    load(path)


@pytest.mark.parametrize(
    "planted",
    [
        '{"class_path": "mmvae_mri.structural.T9", "init_args": {}}',
        '{"class_path": "mmvae_mri.structural.T1", "init_args": {"size": 3}}',
    ],
)
def test_a_planted_row_that_does_not_load_is_found(tmp_path, planted):
    (tmp_path / "row.jsonl").write_text('{"config": {"modalities": {"t1": ' + planted + "}}}\n")
    with pytest.raises(InputError):
        load(tmp_path / "row.jsonl")
