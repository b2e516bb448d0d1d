"""The index: one transaction per change, kills lose nothing, and what is removed is gone."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmvae.errors import InputError
from mmvae.retrieval.embedding import Embedding
from mmvae.retrieval.index import Index, file_system_of


def test_a_snapshot_holds_what_was_embedded(index, embedding):
    archive = index.snapshot()
    assert (
        [facts.case_id for facts in archive.facts]
        == list(embedding.experts.case_ids)
        == list(archive.experts.case_ids)
    )
    np.testing.assert_array_equal(archive.points_of_all, embedding.points)
    np.testing.assert_array_equal(archive.experts.present, embedding.experts.present)
    present = embedding.experts.present
    np.testing.assert_array_equal(archive.experts.mean[present], embedding.experts.mean[present])
    np.testing.assert_array_equal(archive.experts.logvar[present], embedding.experts.logvar[present])
    assert archive.provenance == embedding.provenance


def test_a_snapshot_is_kept_while_nothing_changes_and_read_anew_when_something_has(index, embedding, part):
    first = index.snapshot()
    assert index.snapshot() is first
    Index.open(index.root).remove([embedding.experts.case_ids[0]])  # as another process would
    second = index.snapshot()
    assert second is not first and len(second) == len(first) - 1
    Index.open(index.root).rebuild(Embedding.load(part([1, 2, 3], "new")))  # generations begin anew
    assert [facts.case_id for facts in index.snapshot().facts] == list(embedding.experts.case_ids[1:4])


def test_an_embedding_of_another_model_is_refused_and_adding_twice_adds_nothing(index, embedding, part):
    other = part([0, 1], "other")
    meta = json.loads((other / "meta.json").read_text())
    meta["fingerprint"] = "0" * 64
    (other / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="their spaces cannot be compared"):
        index.add(Embedding.load(other))
    index.remove([embedding.experts.case_ids[0]])
    assert index.count() == 39
    with pytest.raises(InputError, match=f"already holds case {embedding.experts.case_ids[1]}"):
        index.add(Embedding.load(part([0, 1], "again")))
    assert index.count() == 39
    with pytest.raises(InputError, match="holds no case 'x'; nothing was removed"):
        index.remove([embedding.experts.case_ids[1], "x"])
    assert index.count() == 39


def test_a_removed_case_is_found_nowhere_in_the_file(index, embedding):
    case_id = embedding.experts.case_ids[7]
    raw = embedding.points[7].astype("<f4").tobytes()
    everything = lambda: b"".join(p.read_bytes() for p in index.root.glob("index.sqlite*"))  # noqa: E731
    assert raw in everything()
    assert case_id.encode() in everything()  # the search finds what is there
    index.remove([case_id])
    sqlite3.connect(index.root / "index.sqlite").execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert raw not in everything()
    assert case_id.encode() not in everything()


def test_a_network_file_system_is_known_by_its_mount():
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /mnt/archive nfs4 rw 0 0\n"
    assert file_system_of(Path("/mnt/archive/index"), mounts) == "nfs4"
    assert file_system_of(Path("/mnt/archives"), mounts) == "ext4"


def test_rebuild_replaces_the_whole_index(index, part):
    index.rebuild(Embedding.load(part([1, 2, 3], "new")))
    assert index.count() == 3
    assert index.checkpoint.is_file()


def change_all_the_time(folder, embedding, stop) -> None:
    """Removes, adds and rebuilds in another order, until it is told to stop; exits with 1 where one of them fails."""
    index, whole = Index.open(folder), Embedding.load(embedding)
    rng = np.random.default_rng(0)
    while not Path(stop).exists():
        order = rng.permutation(len(whole.facts))
        part = lambda rows: replace(  # noqa: E731
            whole, experts=whole.experts.rows(rows), points=whole.points[rows], facts=tuple(whole.facts[n] for n in rows)
        )  # fmt: skip
        index.remove([whole.experts.case_ids[n] for n in order[:3] if n])
        index.add(part(np.array([n for n in order[:3] if n])))
        index.rebuild(part(order))


def test_who_searches_while_another_adds_removes_and_rebuilds_sees_each_case_s_own_distance(
    index, embedding, tmp_path
):
    """By the exact way and by the graph, whose file is rewritten all the while; no search and no change fails."""
    from mmvae.retrieval.query import query_from_archive
    from mmvae.retrieval.search import search

    def ask(archive, engine):
        query = query_from_archive(archive, embedding.experts.case_ids[0])
        found = search(archive, query, 100, archive_roles="joint", engine=engine).neighbours
        return {neighbour.case_id: neighbour.distance for neighbour in found}

    own = ask(index.snapshot(), "exact")
    other = multiprocessing.get_context("fork").Process(
        target=change_all_the_time, args=(index.root, embedding.root, tmp_path / "stop")
    )
    other.start()
    moments = set()
    for n in range(600):
        archive = (Index.open(index.root) if n % 2 else index).snapshot()
        moments.add(archive.moment)
        for case_id, distance in ask(archive, "usearch" if n % 3 == 0 else "exact").items():
            assert distance == pytest.approx(own[case_id], abs=1e-6)
    (tmp_path / "stop").touch()
    other.join(60)
    assert other.exitcode == 0
    assert len(moments) > 20  # it did change


def work(folder, parts, said: int) -> None:
    """Adds and removes, saying after each what is done."""
    index = Index.open(folder)
    for n, path in enumerate(parts):
        embedding = Embedding.load(path)
        index.add(embedding)
        os.write(said, f"added {n}\n".encode())
        if n % 2:
            index.remove([embedding.experts.case_ids[0]])
            os.write(said, f"removed {n}\n".encode())


def killed_at(call: str, when: int, folder, parts) -> tuple[bool, str]:
    """Work in a forked process that strace kills at the n-th call of a kind; whether it died, and what it had said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            work(folder, parts, writer)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(child, os.WUNTRACED)
    calls = "write,pwrite64,fsync,fdatasync,ftruncate,unlink,rename"
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-p",
        str(child),
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={call}:signal=SIGKILL:when={when}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL):
        until = time.monotonic() + 20
        while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text() and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(child, signal.SIGCONT)
        with os.fdopen(reader) as stream:
            said = stream.read()
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work itself failed"
    return os.WIFSIGNALED(status), said


@pytest.mark.needs("strace")
@pytest.mark.parametrize("kills", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_a_kill_at_any_write_call_loses_nothing_acknowledged(embedding, part, tmp_path, kills):
    base = Index.build(Embedding.load(part(list(range(20)), "base")), tmp_path / "index")
    parts = [part([20 + 5 * n + i for i in range(5)], f"part{n}") for n in range(4)]
    rng, died = np.random.default_rng(0), 0
    for attempt in range(kills):
        folder = tmp_path / f"run{attempt}"
        shutil.copytree(base.root, folder)
        call, when = (
            str(rng.choice(["pwrite64", "pwrite64", "pwrite64", "fdatasync", "unlink"])),
            int(rng.integers(1, 60)),
        )
        dead, said = killed_at(call, when, folder, parts)
        died += dead
        added = [int(line.split()[1]) for line in said.splitlines() if line.startswith("added")]
        removed = [int(line.split()[1]) for line in said.splitlines() if line.startswith("removed")]
        index = Index.open(folder)
        held = {facts.case_id for facts in index.snapshot().facts}
        assert set(embedding.experts.case_ids[:20]) <= held
        for n in range(4):
            cases = set(embedding.experts.case_ids[20 + 5 * n : 25 + 5 * n])
            first = embedding.experts.case_ids[20 + 5 * n]
            if n in removed:
                assert held & cases == cases - {first}
            elif n in added:
                assert held & cases in (
                    cases,
                    cases - {first},
                )  # the removal may have been done and not yet said
            else:
                assert held & cases in (set(), cases)  # all of a transaction or nothing
        db = sqlite3.connect(folder / "index.sqlite")
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert (
            db.execute("SELECT count(*) FROM experts WHERE id NOT IN (SELECT id FROM cases)").fetchone()[0]
            == 0
        )
        db.close()
        shutil.rmtree(folder)
    assert died > kills / 4, "too few attempts were killed: the test would prove nothing"
