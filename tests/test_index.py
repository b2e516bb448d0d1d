"""The index: one transaction a change, kills lose nothing, exact by nested loops, and what is removed is gone."""

import json
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
import torch

from mmvae.cohort import Cohort
from mmvae.errors import EmptyQuery, InputError
from mmvae.latent.fusion import Derived, PoE
from mmvae.latent.space import Readout
from mmvae.model import MMVAE
from mmvae.plain import to_plain
from mmvae.retrieval.embed import embed
from mmvae.retrieval.embedding import Embedding, write_embedding
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.filter import parse_where
from mmvae.retrieval.index import Index, file_system_of
from mmvae.retrieval.query import query_from_cohort, query_from_index
from mmvae.retrieval.search import search


@pytest.fixture(scope="session")
def embedding(trained, phantom, tmp_path_factory) -> Embedding:
    out = tmp_path_factory.mktemp("embedding") / "e"
    model, cohort = MMVAE.load_from_checkpoint(trained), Cohort.load(phantom)
    write_embedding(model, trained, cohort, embed(model, cohort, cohort.cases), out)
    return Embedding.load(out)


@pytest.fixture
def index(embedding, tmp_path) -> Index:
    return Index.build(embedding, tmp_path / "index")


def part(embedding, rows, folder, name):
    """An embedding of some of the cases."""
    out = folder / name
    shutil.copytree(embedding.root, out)
    meta = json.loads((out / "meta.json").read_text())
    meta["case_ids"], meta["facts"] = [meta["case_ids"][r] for r in rows], [meta["facts"][r] for r in rows]
    (out / "meta.json").write_text(json.dumps(meta))
    with np.load(out / "experts.npz") as kept:
        np.savez(out / "experts.npz", **{k: kept[k][rows] for k in kept.files})
    return out


@pytest.fixture(scope="session", params=["as it is", "through a readout", "through a sharpened readout"])
def seen(request, trained, phantom, tmp_path_factory) -> Embedding:
    """The embedding with and without a readout, whatever the fit has chosen."""
    folder = tmp_path_factory.mktemp("seen")
    model, cohort = MMVAE.load_from_checkpoint(trained), Cohort.load(phantom)
    rng = np.random.default_rng(4)
    affine = rng.normal(size=(5, model.latent_dim)).tolist(), rng.normal(size=5).tolist()
    exponent = {"as it is": None, "through a readout": 1.0, "through a sharpened readout": 1.5}[request.param]
    model.readout = (
        None if exponent is None else Readout(tuple(map(tuple, affine[0])), tuple(affine[1]), exponent)
    )
    write_embedding(model, trained, cohort, embed(model, cohort, cohort.cases), folder / "e")
    return Embedding.load(folder / "e")


def test_matched_search_is_the_formula_by_nested_loops(seen, tmp_path):
    embedding, index = seen, Index.build(seen, tmp_path / "index")
    experts, fusion = embedding.experts, embedding.meta["fusion"]["init_args"]
    exponent = fusion.get("exponent", 1.0)
    fusion = fusion["rule"]["init_args"] if "exponent" in fusion else fusion
    matrix, offset = np.array(fusion.get("matrix", np.eye(experts.mean.shape[2]))), np.array(fusion.get("offset", 0.0))  # fmt: skip
    query, patient = query_from_index(index, experts.case_ids[0])
    using = [
        r for r, here in zip(experts.roles, experts.present[0]) if here and r not in experts.answer_roles
    ]
    result = search(index, query, patient, k=5)
    assert sorted(result.using) == sorted(using)

    def mean_of(n):
        precision, weighted, count = np.ones(experts.mean.shape[2]), np.zeros(experts.mean.shape[2]), 0
        for m, role in enumerate(experts.roles):
            if role in using and experts.present[n, m]:
                p = np.exp(-experts.logvar[n, m].astype(float))
                precision, weighted, count = precision + p, weighted + p * experts.mean[n, m], count + 1
        u = matrix @ (weighted / precision) + offset
        return np.sign(u) * abs(u) ** exponent if count else None

    q, distances = mean_of(0), {}
    metric = embedding.meta["distance"]
    for n in range(1, len(experts.case_ids)):
        a = mean_of(n)
        if a is not None:
            cosine = 1 - q @ a / np.linalg.norm(q) / np.linalg.norm(a)
            distances[experts.case_ids[n]] = cosine if metric == "cosine" else np.linalg.norm(q - a)
    oracle = sorted(distances, key=distances.get)[:5]
    assert [n.case_id for n in result.neighbours] == oracle
    np.testing.assert_allclose(
        [n.distance for n in result.neighbours], [distances[c] for c in oracle], atol=1e-5
    )


def test_a_query_s_own_patient_is_never_a_neighbour_and_answers_are_not_in_the_query(index, embedding):
    for case_id in embedding.experts.case_ids[:5]:
        query, patient = query_from_index(index, case_id)
        result = search(index, query, patient, k=100)
        assert case_id not in [n.case_id for n in result.neighbours]
        assert not set(result.using) & {"report", "terms"}


def test_filters_go_first_and_say_how_many_they_left(index, embedding):
    query, patient = query_from_index(index, embedding.experts.case_ids[0])
    result = search(
        index, query, patient, k=3, where=parse_where("age_years > 40 and not menopause == 'pre'")
    )
    oracle = [
        f
        for f in embedding.facts
        if f["record"].get("age_years", 0) > 40 and f["record"].get("menopause") not in (None, "pre")
    ]
    allowed = [
        f
        for f in embedding.facts
        if f["record"].get("age_years", 0) > 40 and f["record"].get("menopause") != "pre"
    ]
    assert result.left_by_filter == len(allowed) >= len(oracle)
    assert all(n.record["age_years"] > 40 for n in result.neighbours)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os')", "found Call"),
        ("age_years >", "not understood"),
        ("height > 3", "no record field 'height'"),
        ("age_years + 1 > 3", "expected comparisons"),
    ],
)
def test_a_filter_is_parsed_and_never_evaluated(text, message):
    with pytest.raises(InputError, match=message):
        parse_where(text, {"age_years": {}})


def test_refusals_name_what_was_found(index, embedding):
    query, patient = query_from_index(index, embedding.experts.case_ids[0])
    with pytest.raises(InputError, match=r"leaves none of the archive's 40"):
        search(index, query, patient, where=parse_where("age_years > 500"))
    with pytest.raises(InputError, match=r"'t9' is no role"):
        search(index, query, patient, using=["t9"])
    with pytest.raises(InputError, match=r"-k 0"):
        search(index, query, patient, k=0)
    empty = replace(query, present=np.zeros_like(query.present))
    with pytest.raises(EmptyQuery, match="the query has none of"):
        search(index, empty, patient)
    with pytest.raises(InputError, match="holds no case 'x'"):
        query_from_index(index, "x")
    assert len(search(index, query, patient, k=1000).neighbours) <= 39


def test_an_embedding_of_another_model_is_refused_and_adding_twice_adds_nothing(index, embedding, tmp_path):
    other = part(embedding, [0, 1], tmp_path, "other")
    meta = json.loads((other / "meta.json").read_text())
    meta["fingerprint"] = "0" * 64
    (other / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="their spaces cannot be compared"):
        index.add(Embedding.load(other))
    index.remove([embedding.experts.case_ids[0]])
    assert index.count() == 39
    with pytest.raises(InputError, match=f"already holds case {embedding.experts.case_ids[1]}"):
        index.add(Embedding.load(part(embedding, [0, 1], tmp_path, "again")))
    assert index.count() == 39


def test_a_removed_case_is_found_nowhere_in_the_file(index, embedding):
    case_id = embedding.experts.case_ids[7]
    raw = embedding.means[7].astype("<f4").tobytes()
    everything = lambda: b"".join(p.read_bytes() for p in index.root.glob("index.sqlite*"))  # noqa: E731
    assert raw in everything()
    assert case_id.encode() in everything()  # the search finds what is there
    index.remove([case_id])
    sqlite3.connect(index.root / "index.sqlite").execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert raw not in everything()
    assert case_id.encode() not in everything()


def test_usearch_answers_like_exact_search_and_follows_removals(index, embedding):
    query, patient = query_from_index(index, embedding.experts.case_ids[0])
    exact = search(index, query, patient, k=5, archive="joint", engine="exact")
    fast = search(index, query, patient, k=5, archive="joint", engine="usearch")
    assert [n.case_id for n in fast.neighbours] == [n.case_id for n in exact.neighbours]
    gone = fast.neighbours[0].case_id
    index.remove([gone])
    assert gone not in [
        n.case_id for n in search(index, query, patient, k=5, archive="joint", engine="usearch").neighbours
    ]
    with pytest.raises(InputError, match="cannot filter"):
        search(index, query, patient, where=parse_where("age_years > 1"), engine="usearch")


def test_a_case_of_another_cohort_finds_itself_nearest(index, cohort, embedding):
    case = cohort.cases[3]
    query, _ = query_from_cohort(index, cohort, case)
    assert search(index, query, None, k=1).neighbours[0].case_id == case.case_id


def test_a_network_file_system_is_known_by_its_mount():
    mounts = "/dev/sda / ext4 rw 0 0\nserver:/x /mnt/archive nfs4 rw 0 0\n"
    assert file_system_of(Path("/mnt/archive/index"), mounts) == "nfs4"
    assert file_system_of(Path("/mnt/archives"), mounts) == "ext4"


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
@pytest.mark.parametrize("kills", [200])
def test_a_kill_at_any_write_call_loses_nothing_acknowledged(embedding, tmp_path, kills):
    base = Index.build(Embedding.load(part(embedding, list(range(20)), tmp_path, "base")), tmp_path / "index")
    parts = [part(embedding, [20 + 5 * n + i for i in range(5)], tmp_path, f"part{n}") for n in range(4)]
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
        _, facts = index.facts()
        held = {f["case_id"] for f in facts}
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


def test_rebuild_replaces_the_whole_index(index, embedding, tmp_path):
    index.rebuild(Embedding.load(part(embedding, [1, 2, 3], tmp_path, "new")))
    assert index.count() == 3
    assert index.checkpoint.is_file()


def test_means_of_experts_are_the_fusion_s(embedding):
    rule = embedding.fusion
    while isinstance(rule, Derived):
        rule = rule.rule
    assert to_plain(rule) == to_plain(PoE())
    row = embedding.experts.rows(np.array([0]))
    assert isinstance(row, Experts)
    assert torch.isfinite(torch.from_numpy(row.means(PoE(), row.present))).all()
