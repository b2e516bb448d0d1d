"""A checkpoint, an embedding, an index or a MAP of a stranger: nothing that it names is run, and the refusal is one line."""

import importlib
import json
import os
import pickle
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import usearch.index

from mmvae.cli import main
from mmvae.errors import InputError
from mmvae.ingest.table.fields import filled, is_template
from mmvae.ingest.table.map import read_map
from mmvae.model import MMVAE
from mmvae.retrieval import approximate
from mmvae.retrieval.embedding import Embedding
from mmvae.retrieval.index import Index

HOSTILE = ["a command", "a module", "a class of another kind", "through a trusted module", "nested"]


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """A file that appears where an attack succeeds; a module that makes it lies in the working folder, as pickles do."""
    path = tmp_path / "ran"
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "stranger.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from mmvae.latent.fusion import TemperedPoE\n"
        f"Path({str(path)!r}).touch()\n"
        "@dataclass(frozen=True)\nclass Fusion(TemperedPoE):\n    pass\n"
    )
    monkeypatch.syspath_prepend(desk)
    monkeypatch.chdir(desk)
    yield path
    sys.modules.pop("stranger", None)


def attack(kind: str, marker: Path) -> dict:
    """Plain values that would leave the marker if they were believed."""
    command = {"class_path": "os.system", "init_args": {"command": f"touch {marker}"}}
    return {
        "a command": command,
        "a module": {"class_path": "stranger.Fusion", "init_args": {}},
        "a class of another kind": {"class_path": "mmvae_clinical.Clinical", "init_args": {}},
        "through a trusted module": {
            "class_path": "mmvae.atomic.os.system",
            "init_args": command["init_args"],
        },
        "nested": {"class_path": "mmvae.latent.fusion.MomentMatched", "init_args": {"rule": command}},
    }[kind]


def run_as_it_says(plain: dict) -> object:
    """What a loader does that believes a file."""
    for value in plain["init_args"].values():
        if isinstance(value, dict):
            return run_as_it_says(value)
    module, name = plain["class_path"].removeprefix("mmvae.atomic.").rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(*plain["init_args"].values())


@pytest.mark.parametrize("kind", ["a command", "a module", "through a trusted module", "nested"])
def test_the_attacks_work_on_a_loader_that_believes_them(kind, marker):
    run_as_it_says(attack(kind, marker))
    assert marker.exists()


def refused(marker: Path, capsys, *arguments) -> str:
    """The command's only line on standard error; its status is 1 and nothing ran."""
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("mmvae: ")
    assert not marker.exists()
    return lines[0]


def change_index(index, *statements):
    with sqlite3.connect(index / "index.sqlite") as db:
        for statement, *values in statements:
            db.execute(statement, values)
    db.close()


@pytest.mark.parametrize("key", ["space", "fusion"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_index_runs_nothing_that_it_names(kind, key, release_0_1, marker, capsys):
    index = release_0_1 / "index"
    main(["migrate", str(index)])
    space = {"class_path": "mmvae.latent.space.RetrievalSpace", "init_args": {"rule": attack(kind, marker)}}
    value = space if key == "space" else attack(kind, marker)
    change_index(
        index,
        ("DELETE FROM meta WHERE key = 'space'",),
        ("INSERT INTO meta VALUES (?, ?)", key, json.dumps(value)),
    )
    case_id = json.loads((release_0_1 / "cohort" / "cases.jsonl").read_text().splitlines()[0])["case_id"]
    refused(marker, capsys, "search", "--index", index, "--case", case_id)
    refused(marker, capsys, "index", "info", "--index", index)
    refused(marker, capsys, "migrate", index)


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_embedding_runs_nothing_that_it_names(kind, release_0_1, marker, capsys):
    meta = json.loads((release_0_1 / "embedding" / "meta.json").read_text())
    meta["fusion"] = attack(kind, marker)
    (release_0_1 / "embedding" / "meta.json").write_text(json.dumps(meta))
    refused(marker, capsys, "index", "build", release_0_1 / "embedding", "--out", release_0_1 / "new")
    refused(marker, capsys, "index", "add", release_0_1 / "embedding", "--index", release_0_1 / "index")
    assert not (release_0_1 / "new").exists()


@pytest.mark.parametrize("place", ["fusion", "objective", "modalities", "fitted", "space"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_checkpoint_runs_nothing_that_it_names(kind, place, release_0_1, marker, capsys):
    if kind == "a class of another kind" and place in ("modalities", "fitted"):
        pytest.skip("a modality is the kind that is wanted here")
    path = release_0_1 / "model.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    entry, hostile = checkpoint["mmvae"], attack(kind, marker)
    if place in ("fusion", "objective"):
        entry["config"][place] = hostile
    elif place == "space":
        entry["space"] = hostile
    else:
        (entry["config"][place] if place == "modalities" else entry[place])["clinical"] = hostile
    torch.save(checkpoint, path)
    cohort = release_0_1 / "cohort"
    refused(marker, capsys, "embed", "--checkpoint", path, "--cohort", cohort, "--out", release_0_1 / "e")
    refused(marker, capsys, "evaluate", "--checkpoint", path, "--cohort", cohort, "--out", release_0_1 / "v")
    refused(marker, capsys, "show", Index.open(release_0_1 / "index").snapshot().facts[0].case_id, "--cohort", cohort, "--checkpoint", path)  # fmt: skip
    assert not (release_0_1 / "e").exists() and not (release_0_1 / "v").exists()


@pytest.mark.parametrize("value", [3, "x", [1], {"a": 1}, None])
@pytest.mark.parametrize(
    "place", ["mmvae", "state_dict", "readout", "data", "modalities", "latent_dim", "groups", "subsets"]
)
def test_a_value_of_another_kind_in_a_checkpoint_is_a_clear_refusal(
    place, value, release_0_1, marker, capsys
):
    path = release_0_1 / "model.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    if place in ("readout", "data") and value is None:
        pytest.skip("there need be none")
    if place in checkpoint:
        checkpoint[place] = value
    elif place in checkpoint["mmvae"]:
        checkpoint["mmvae"][place] = value
    else:
        checkpoint["mmvae"]["config"][place] = value
    torch.save(checkpoint, path)
    if (place, value) in (("subsets", 3), ("data", {"a": 1})):
        pytest.skip("this is what the field may hold")
    line = refused(marker, capsys, "embed", "--checkpoint", path, "--cohort", release_0_1 / "cohort", "--out", release_0_1 / "e")  # fmt: skip
    assert len(line) < 500


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_for_a_checkpoint_is_refused(release_0_1, marker, capsys):
    path = release_0_1 / "model.ckpt"
    torch.save({"mmvae": _Touch(marker)}, path)
    pickle.loads(pickle.dumps(_Touch(marker)))
    assert marker.exists()  # the attack works on a loader that believes it
    marker.unlink()
    refused(
        marker,
        capsys,
        "embed",
        "--checkpoint",
        path,
        "--cohort",
        release_0_1 / "cohort",
        "--out",
        release_0_1 / "e",
    )


def test_pickled_arrays_for_an_embedding_are_refused(release_0_1, marker, capsys):
    path = release_0_1 / "embedding" / "experts.npz"
    with np.load(path) as kept:
        arrays = dict(kept)
    np.savez(path, **{**arrays, "mean": np.array([_Touch(marker)], dtype=object)})
    with np.load(path, allow_pickle=True) as kept:
        kept["mean"]
    assert marker.exists()
    marker.unlink()
    refused(marker, capsys, "index", "build", release_0_1 / "embedding", "--out", release_0_1 / "new")


def test_a_class_is_made_once_its_module_is_trusted(release_0_1, marker, capsys, monkeypatch):
    monkeypatch.setattr("mmvae.plain._trusted", set())
    path = release_0_1 / "model.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["mmvae"]["config"]["fusion"] = attack("a module", marker)
    torch.save(checkpoint, path)
    words = ["embed", "--checkpoint", path, "--cohort", release_0_1 / "cohort", "--out", release_0_1 / "e"]
    line = refused(marker, capsys, *words)
    assert line.startswith("mmvae: --trust: ") and "stranger" in line
    with pytest.raises(InputError, match="neither part of mmvae nor of an installed plugin"):
        MMVAE.load_from_checkpoint(path)
    assert main([*map(str, words), "--trust", "stranger"]) == 0
    assert marker.exists()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON cases BEGIN DELETE FROM experts; END",
        "CREATE VIEW v AS SELECT * FROM cases",
        "CREATE TABLE more (x)",
        "DROP TABLE experts",
    ],
)
def test_an_index_with_more_or_less_than_its_tables_is_refused(statement, release_0_1, marker, capsys):
    index = release_0_1 / "index"
    change_index(index, (statement,))
    assert "found or missing" in refused(marker, capsys, "index", "info", "--index", index)
    refused(marker, capsys, "index", "add", release_0_1 / "embedding", "--index", index)
    refused(marker, capsys, "index", "remove", "x", "--index", index)


def test_a_name_from_the_index_is_no_path(release_0_1, marker, capsys):
    """The moment of an index names a cache file; one that a stranger wrote may not lead out of the folder."""
    index = release_0_1 / "index"
    change_index(index, ("INSERT INTO meta VALUES ('build', ?)", json.dumps("../../ran")))
    assert "/" not in Index.open(index).snapshot().moment


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("meta", "value", "not JSON"),
        ("meta", "value", "[1]"),
        ("cases", "facts", "[]"),
        ("cases", "facts", b"\xff"),
        ("cases", "facts", "[" * 5000),
        ("cases", "facts", '{"case_id": 3, "patient": "p"}'),
        ("cases", "facts", '{"case_id": "c", "patient": "p", "record": {"age": [1]}}'),
        ("cases", "mean", b"odd"),
        ("cases", "mean", "words"),
        ("experts", "logvar", b"\0" * 4),
        ("experts", "mean", b""),
        ("experts", "role", "stranger"),
    ],
)
def test_a_damaged_row_is_a_clear_refusal(table, column, value, release_0_1, marker, capsys):
    index = release_0_1 / "index"
    key = {"meta": "key", "cases": "id", "experts": "id"}[table]
    with sqlite3.connect(index / "index.sqlite") as db:
        chosen = db.execute(f"SELECT {key} FROM {table} LIMIT 1").fetchone()[0]
        if table == "meta":
            chosen = "roles"
        which = " AND role = 'clinical'" if table == "experts" else ""
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?{which}", (value, chosen))
    db.close()
    refused(marker, capsys, "index", "info", "--index", index)


@pytest.mark.parametrize(
    "value", ["null", "3", '"x"', "[1]", "1e400", "NaN", '{"a": 1}', "[" * 5000 + "]" * 5000]
)
@pytest.mark.parametrize("key", ["generation", "roles", "answer_roles", "fingerprint", "groups", "fields"])
def test_a_value_of_another_kind_in_the_index_is_a_clear_refusal(key, value, release_0_1, marker, capsys):
    if (key, value) in (("generation", "3"), ("fingerprint", '"x"')):
        pytest.skip("a value of the right kind")
    index = release_0_1 / "index"
    change_index(index, ("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value))
    refused(marker, capsys, "index", "info", "--index", index)


def test_what_is_no_database_is_refused(release_0_1, marker, capsys):
    (release_0_1 / "index" / "index.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 4000)
    assert "damaged or no database" in refused(
        marker, capsys, "index", "info", "--index", release_0_1 / "index"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("facts"),
        lambda meta: meta.update(facts=[3]),
        lambda meta: meta.update(roles="clinical"),
        lambda meta: meta.update(roles=["clinical"]),
        lambda meta: meta.update(answer_roles=["nobody"]),
        lambda meta: meta.pop("fingerprint"),
        lambda meta: meta.pop("fusion"),
        lambda meta: meta.update(fields={"age_years": "years"}),
        lambda meta: meta.update(groups={"images": 3}),
        lambda meta: meta.update(groups=None),
        lambda meta: meta.update(origin=[1]),
        lambda meta: meta.update(fields="age_years"),
        lambda meta: meta["facts"].pop(),
    ],
)
def test_a_damaged_embedding_is_a_clear_refusal(change, release_0_1, marker, capsys):
    path = release_0_1 / "embedding" / "meta.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    refused(marker, capsys, "index", "build", release_0_1 / "embedding", "--out", release_0_1 / "new")
    with pytest.raises(InputError):
        Embedding.load(release_0_1 / "embedding")


@pytest.mark.parametrize(
    "text",
    [
        "key: !!python/object/apply:os.system ['touch {marker}']",
        "key: !!python/object/apply:subprocess.Popen [['touch', '{marker}']]",
        "key: Patient\nassets: [{kind: t2, file: !!python/name:os.system ''}]",
    ],
)
def test_a_map_runs_nothing_that_it_names(text, tmp_path, marker, capsys):
    import yaml

    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    (source / "records.csv").write_text("Patient,age\nP1,30\n")
    (source / "map.yaml").write_text(text.replace("{marker}", str(marker)))
    hostile = yaml.unsafe_load((source / "map.yaml").read_text())
    # The attacks work on an unsafe loader: the first two ran, the third holds what may be called.
    if "assets" in hostile:
        assert hostile["assets"][0]["file"] is os.system
    else:
        if not isinstance(hostile["key"], int):
            hostile["key"].wait(30)
        assert marker.exists()
        marker.unlink()
    refused(marker, capsys, "scan", source, "--out", tmp_path / "c", "--map", source / "map.yaml", "--records", source / "records.csv")  # fmt: skip


def test_a_template_of_a_map_reaches_no_attribute(tmp_path, marker, capsys):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    (source / "records.csv").write_text("Patient,age\nP1,30\n")
    (source / "map.yaml").write_text(
        "key: Patient\nassets: [{kind: report, file: '{Patient.__class__.__mro__}'}]\n"
    )
    assert "no column" in refused(marker, capsys, "scan", source, "--out", tmp_path / "c", "--map", source / "map.yaml",
                                  "--records", source / "records.csv")  # fmt: skip


@pytest.mark.parametrize(
    "value", [3, "{x", "{}", "{Patient!r}", "{Patient:>9}", {"a": 1}, ["a", 1], [[1]], [{}], True]
)
@pytest.mark.parametrize("field", ["key", "case", "patient", "assets", "record", "labels", "label_source", "terms", "lesion",
                                   "reference", "relevance", "answers", "name", "file", "kind", "facts"])  # fmt: skip
def test_a_field_of_a_map_that_holds_what_it_may_not_is_a_refusal_by_name(field, value, tmp_path):
    import yaml

    words = ("key", "name", "kind")  # any text is one; where there is no such column the table says so
    if (isinstance(value, str) and field in words) or (field, value) == ("facts", {"a": 1}):
        pytest.skip("this is what the field may hold")
    good = {"key": "Patient", "record": {"age": "age"}}
    asset = {"kind": "t2", "file": "{Patient}.nii.gz"}
    inner = field in ("file", "kind", "facts")
    content = (
        {**good, "assets": [{**asset, field: value}]} if inner else {**good, "assets": [asset], field: value}
    )
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=rf"map.yaml: (assets\[0\]\.)?{field}\b") as refused:
        read_map(tmp_path / "map.yaml")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 5000, b"key: Patient\n3: 4", b"key: Patient\nlabels: &a [*a]"]
)
def test_a_map_that_is_no_map_is_a_clear_refusal(content, tmp_path):
    (tmp_path / "map.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"^map.yaml: "):
        read_map(tmp_path / "map.yaml")


def test_a_template_is_filled_and_never_formatted():
    """A width in a template of a stranger's would fill the memory; an attribute would be read."""
    assert len("{x:>1000}".format(x="a")) == 1000  # what formatting does
    assert not any(map(is_template, ("{x:>1000}", "{x!r}", "{}", "{x", "{x:{y}}")))
    assert is_template("{x}/{a column with spaces}.nii.gz")
    assert filled("{a.b}{{", {"a.b": "c"}) == "c{"


# ---- an index that says what is not so ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "value", "said"),
    [
        ("UPDATE experts SET id = ? WHERE id = 16", 999, "a case that it does not hold"),
        ("UPDATE experts SET id = ? WHERE id = 3", -3, "a case that it does not hold"),
        (
            "UPDATE experts SET mean = ? WHERE id = 3",
            np.full(2, np.nan, "<f4").tobytes(),
            "values that are not finite",
        ),
        ("UPDATE cases SET case_id = ? WHERE id = 3", "another", "holds the facts of"),
        ("UPDATE meta SET value = ? WHERE key = 'generation'", '"x"', "not a whole number"),
        ("UPDATE meta SET value = ? WHERE key = 'groups'", "[1]", "have groups [1]; expected an object"),
        ("UPDATE meta SET value = ? WHERE key = 'fields'", "[1]", "have fields [1]; expected an object"),
        ("UPDATE meta SET value = ? WHERE key = 'origin'", "3", "have origin 3; expected an object"),
        ("UPDATE cases SET facts = ? WHERE id = 3", "[" * 100_000, "is damaged"),
    ],
)
def test_what_an_index_cannot_mean_is_refused_and_mended_by_a_rebuild(
    statement, value, said, release_0_1, marker, capsys
):
    index = release_0_1 / "index"
    change_index(index, (statement, value))
    assert said in refused(marker, capsys, "index", "info", "--index", index)
    Index.open(index).rebuild(Embedding.load(release_0_1 / "embedding"))
    assert len(Index.open(index).snapshot()) == 16


def test_a_trigger_under_a_name_of_sqlite_s_own_is_refused(release_0_1, marker, capsys):
    index = release_0_1 / "index"
    change_index(
        index,
        ("CREATE TRIGGER t AFTER INSERT ON cases BEGIN DELETE FROM experts; END",),
        ("PRAGMA writable_schema = ON",),
        ("UPDATE sqlite_master SET name = 'sqlite_t', sql = replace(sql, 'TRIGGER t', 'TRIGGER sqlite_t') WHERE name = 't'",),
    )  # fmt: skip
    assert "trigger sqlite_t" in refused(marker, capsys, "index", "info", "--index", index)


def test_a_graph_that_another_wrote_is_not_read(release_0_1, tmp_path, monkeypatch):
    """usearch reads what it is given without a check, and dies of it or worse."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    restore, given = usearch.index.Index.restore, []
    monkeypatch.setattr(
        usearch.index.Index, "restore", lambda content: given.append(content) or restore(content)
    )
    index = Index.open(release_0_1 / "index")
    archive = index.snapshot()
    ask = lambda of: approximate.nearest(of, archive.points_of_all[0], 5)  # noqa: E731
    path = index.root / f"points-{archive.moment}.usearch"
    wanted = ask(archive)
    assert ask(archive) == wanted and len(given) == 1  # its own is read
    path.unlink()
    ask(
        replace(archive, points_of_all=archive.points_of_all[::-1].copy())
    )  # rightly named and ours, of other points
    assert ask(archive) == wanted
    given.clear()
    path.write_bytes(path.read_bytes()[:-7] + b"\xff" * 7)
    assert ask(archive) == wanted and not given


def test_a_terminal_shows_an_index_s_words_and_does_not_obey_them(release_0_1, capsys):
    index = release_0_1 / "index"
    hostile = "\x1b[2J\r\n  1  a better case\x9b1A"
    change_index(index, ("UPDATE cases SET facts = json_set(facts, '$.labels.histology', ?)", hostile))
    case_id = Index.open(index).snapshot().facts[0].case_id
    assert main(["search", "--index", str(index), "--case", case_id, "-k", "3"]) == 0
    said = capsys.readouterr().out
    assert "a better case" in said  # it is shown, in its own place
    assert len(said.splitlines()) == 5
    assert not {"\x1b", "\r", "\x9b"} & set(said)
