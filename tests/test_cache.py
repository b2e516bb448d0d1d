"""Kept observations: never stale, and no error where they cannot be kept."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmvae_mri.structural import T2

from mmvae.batch import Observation
from mmvae.case import Asset, View
from mmvae.data import cache

ROOT = Path(__file__).parents[1]
SMALL = {"shape": (2, 4, 4), "spacing_mm": (6.0, 6.0, 6.0)}


@pytest.fixture
def view(tmp_path):
    from mmvae.ingest.nifti import write_nifti

    volume = np.random.default_rng(0).integers(50, 900, (6, 6, 4)).astype(np.int16)
    write_nifti(tmp_path / "0.nii.gz", volume, np.diag([5.0, 5.0, 5.0, 1.0]))
    return View(tmp_path, (Asset("volume", "0.nii.gz", "0", "t2"),), frame_mm=(12.0, 12.0, 7.0))


def test_what_was_kept_is_what_was_read_and_is_not_read_again(view, tmp_path, monkeypatch):
    recipe, folder = T2(**SMALL), tmp_path / "kept"
    first = cache.read_cached(recipe, view, folder)

    def refuse(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(T2, "read", refuse)
    again = cache.read_cached(recipe, view, folder)
    assert torch.equal(first.value, again.value)
    assert torch.equal(first.mask, again.mask)
    assert isinstance(again, Observation)


@pytest.mark.parametrize("edited", ["mmvae_mri.structural", "mmvae_mri.grid", "mmvae.blocks.geometry"])
def test_editing_the_plugin_or_a_building_block_changes_the_key(view, monkeypatch, edited):
    before, read = cache.key_of(T2(**SMALL), view), Path.read_bytes
    cache._source_hash.cache_clear()
    assert cache.key_of(T2(**SMALL), view) == before
    cache._source_hash.cache_clear()
    file = Path(importlib.import_module(edited).__file__)
    monkeypatch.setattr(Path, "read_bytes", lambda p: read(p) + (b"# edited" if p == file else b""))
    assert cache.key_of(T2(**SMALL), view) != before
    cache._source_hash.cache_clear()


def test_the_key_does_not_depend_on_what_else_was_imported():
    """A worker that imported less than the parent finds what the parent kept."""
    code = "from mmvae.data.cache import _source_hash; from mmvae_report import Report; print(_source_hash(Report))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", first + code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
        for first in ("", "import mmvae.blocks.networks; ", "import mmvae_report.text_model, mmvae_mri; ")
    }
    assert len(hashes) == 1


def test_a_class_of_one_file_depends_on_that_file(tmp_path, monkeypatch):
    (tmp_path / "alone.py").write_text("class Alone: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    alone = importlib.import_module("alone").Alone
    assert cache._sources(alone)[0] == tmp_path / "alone.py"
    assert "geometry.py" in [path.name for path in cache._sources(alone)]


def test_a_recipe_a_frame_and_a_file_change_the_key(view):
    key = cache.key_of(T2(**SMALL), view)
    moved = View(view.root, view.assets, frame_mm=(0.0, 12.0, 7.0))
    replaced = View(view.root, (Asset("volume", "0.nii.gz", "1", "t2"),), frame_mm=view.frame_mm)
    others = [
        cache.key_of(T2(shape=(2, 4, 5)), view),
        cache.key_of(T2(**SMALL), moved),
        cache.key_of(T2(**SMALL), replaced),
    ]
    assert len({key, *others}) == 4


def test_a_folder_that_cannot_be_written_is_no_error(view, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert cache.read_cached(T2(**SMALL), view, tmp_path / "file").mask.any()


def test_a_damaged_file_is_read_anew(view, tmp_path):
    recipe, folder = T2(**SMALL), tmp_path / "kept"
    first = cache.read_cached(recipe, view, folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(b"half")
    assert torch.equal(cache.read_cached(recipe, view, folder).value, first.value)
