"""Files and folders that appear whole or not at all, whatever stops their writing; seeds that no process changes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmvae.atomic import built_beside, new_folder, swap_folder, write_atomically
from mmvae.errors import EmptyQuery, InputError, NoCases
from mmvae.seeds import seed_of


class Stop(BaseException):
    """As Ctrl-C: no Exception."""


def half_a_file(target: Path, error: type[BaseException]) -> None:
    with built_beside(target) as beside:
        beside.write_text("half")
        raise error


def half_a_folder(out: Path, error: type[BaseException]) -> None:
    with new_folder(out) as beside:
        (beside / "inner").mkdir()
        (beside / "inner" / "file").write_text("half")
        raise error


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "file"
    with built_beside(target) as beside:
        assert beside.parent == target.parent  # a rename is atomic within one file system
        beside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file"]


@pytest.mark.parametrize("error", [ValueError, Stop, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_nothing_beside(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(error):
        half_a_file(target, error)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, Stop])
def test_a_folder_that_fails_is_gone_with_all_in_it(tmp_path, error):
    with pytest.raises(error):
        half_a_folder(tmp_path / "out", error)
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused_and_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    with pytest.raises(InputError, match="'out' exists already; name a folder that does not, or remove it") as refused, new_folder(tmp_path / "out"):  # fmt: skip
        pytest.fail("the block must not run")
    assert refused.value.field == "out"
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_what_an_earlier_kill_left_beside_is_no_part_of_the_next_result(tmp_path):
    """A process is killed in the middle; the next one of the same name starts from nothing."""
    code = (
        "import os, signal, sys; from pathlib import Path; from mmvae.atomic import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as beside:\n"
        "    (beside / 'stale').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(os.listdir(tmp_path)) == 1
    with new_folder(tmp_path / "out") as beside:
        (beside / "fresh").write_text("whole")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fresh"]
    assert os.listdir(tmp_path) == ["out"]


def test_write_atomically_replaces_whole(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_swapped_folder_holds_the_new_and_nothing_of_the_old(tmp_path):
    for name in ("new", "place", ".place.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    swap_folder(tmp_path / "new", tmp_path / "place")
    assert os.listdir(tmp_path) == ["place"]
    assert os.listdir(tmp_path / "place") == ["new"]


@pytest.mark.parametrize(("error", "status"), [(InputError, 1), (NoCases, 3), (EmptyQuery, 5)])
def test_an_error_knows_its_exit_status_and_field(error, status):
    assert error("x").exit_status == status
    assert error("x").field is None
    assert error("x", "cohort").field == "cohort"
    assert isinstance(error("x"), ValueError)


def test_a_seed_is_the_same_in_every_process_and_differs_with_each_part():
    code = "from mmvae.seeds import seed_of; print(seed_of('motion', 0, 'case-1', 3))"
    seeds = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True,
                       cwd=Path(__file__).parents[1]).stdout
        for salt in ("0", "1")
    }  # fmt: skip
    assert seeds == {f"{seed_of('motion', 0, 'case-1', 3)}\n"}
    others = {seed_of("motion", e, f"case-{c}", n) for e in range(10) for c in range(10) for n in range(10)}
    assert len(others) == 1000
    assert all(0 <= seed < 2**63 for seed in others)
