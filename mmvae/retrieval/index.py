"""What is kept of an archive: one SQLite file is the truth, every change one transaction, the checkpoint beside it."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mmvae.case import InputError
from mmvae.latent.fusion import Fusion
from mmvae.modality import from_plain
from mmvae.retrieval.embed import Embedding, Experts

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "fuse.sshfs",
    "lustre",
    "beegfs",
    "ceph",
    "9p",
    "afs",
    "gpfs",
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
  id INTEGER PRIMARY KEY AUTOINCREMENT, case_id TEXT NOT NULL UNIQUE, patient TEXT NOT NULL, facts TEXT NOT NULL, mean BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS experts (
  id INTEGER NOT NULL REFERENCES cases(id) ON DELETE CASCADE, role TEXT NOT NULL, answer INTEGER NOT NULL,
  mean BLOB NOT NULL, logvar BLOB NOT NULL, PRIMARY KEY (id, role)) WITHOUT ROWID;
"""


def file_system_of(path: Path, mounts: str | None = None) -> str:
    """The type of the file system under a path, from the kernel's mount table; '' where there is none."""
    try:
        table = Path("/proc/mounts").read_text() if mounts is None else mounts
    except OSError:
        return ""
    best, kind = "", ""
    for line in table.splitlines():
        _, mount, this, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        inside = str(path.absolute()) == mount or str(path.absolute()).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, this
    return kind


@dataclass(frozen=True)
class Index:
    """An index folder: `index.sqlite` and `model.ckpt`. Every method opens a connection of its own."""

    root: Path

    @classmethod
    def open(cls, root: str | Path) -> "Index":
        """The index at a folder.

        Raises:
            InputError: where there is none.
        """
        root = Path(root)
        if not (root / "index.sqlite").is_file():
            raise InputError(
                f"{root} is no index: it has no index.sqlite. Make one with `mmvae index build E --out {root}`."
            )
        return cls(root)

    @classmethod
    def build(cls, embedding: Embedding, out: Path) -> "Index":
        """A new index of an embedding, by rename at the end."""
        if out.exists():
            raise InputError(f"{out} exists already; `mmvae index add` adds to it, `rebuild` replaces it")
        beside = out.with_name(f".{out.name}.writing")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            made = cls(beside)
            made._fill(embedding)
            os.replace(beside, out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        return cls(out)

    def rebuild(self, embedding: Embedding) -> None:
        """This index made anew from an embedding, of another model too: built beside, then swapped by rename."""
        beside = self.root.with_name(f".{self.root.name}.rebuilding")
        shutil.rmtree(beside, ignore_errors=True)
        Index.build(embedding, beside)
        old = self.root.with_name(f".{self.root.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(self.root, old)
        os.rename(beside, self.root)
        shutil.rmtree(old)

    def _fill(self, embedding: Embedding) -> None:
        with self._transaction() as db:
            db.executescript("BEGIN;" + _SCHEMA)
            meta = {
                name: value for name, value in embedding.meta.items() if name not in ("case_ids", "facts")
            }
            db.executemany(
                "INSERT INTO meta VALUES (?, ?)", [(key, json.dumps(value)) for key, value in meta.items()]
            )
            db.execute("INSERT INTO meta VALUES ('generation', '0')")
            self._insert(db, embedding)
        shutil.copyfile(embedding.root / "model.ckpt", self.root / "model.ckpt")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept together or not at all."""
        db = sqlite3.connect(self.root / "index.sqlite", timeout=60, isolation_level=None)
        try:
            db.execute("PRAGMA foreign_keys = ON")
            # Write-ahead logging needs shared memory, which network file systems do not give.
            remote = file_system_of(self.root) in NETWORK_FILE_SYSTEMS
            db.execute(f"PRAGMA journal_mode = {'DELETE' if remote else 'WAL'}")
            db.execute(f"PRAGMA synchronous = {'FULL' if remote else 'NORMAL'}")
            db.execute("PRAGMA secure_delete = ON")
            if not db.in_transaction:
                db.execute("BEGIN IMMEDIATE") if self._has_schema(db) else None
            yield db
            if db.in_transaction:
                db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        finally:
            db.close()

    @staticmethod
    def _has_schema(db: sqlite3.Connection) -> bool:
        return db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0] > 0

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment of the index."""
        db = sqlite3.connect(self.root / "index.sqlite", timeout=60, isolation_level=None)
        try:
            db.execute("BEGIN")
            yield db
        finally:
            db.close()

    @staticmethod
    def _insert(db: sqlite3.Connection, embedding: Embedding) -> None:
        experts, answers = embedding.experts, set(embedding.experts.answer_roles)
        for n, case_id in enumerate(experts.case_ids):
            facts = embedding.facts[n]
            try:
                cursor = db.execute(
                    "INSERT INTO cases (case_id, patient, facts, mean) VALUES (?, ?, ?, ?)",
                    (
                        case_id,
                        facts["patient"],
                        json.dumps(facts),
                        embedding.means[n].astype("<f4").tobytes(),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise InputError(
                    f"the index already holds case {case_id}; remove it first (`mmvae index remove`). Nothing was added."
                ) from error
            db.executemany(
                "INSERT INTO experts VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        cursor.lastrowid,
                        role,
                        int(role in answers),
                        experts.mean[n, m].astype("<f4").tobytes(),
                        experts.logvar[n, m].astype("<f4").tobytes(),
                    )
                    for m, role in enumerate(experts.roles)
                    if experts.present[n, m]
                ],
            )
        db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")

    def add(self, embedding: Embedding) -> int:
        """Adds all cases of an embedding of the same model, or none; returns how many."""
        mine, theirs = self.meta()["fingerprint"], embedding.meta["fingerprint"]
        if mine != theirs:
            raise InputError(
                f"the embedding's model {theirs[:12]} is not the index's {mine[:12]}: their spaces cannot be compared. Embed with the "
                "index's own model.ckpt, or `mmvae index rebuild` with the new one."
            )
        with self._transaction() as db:
            self._insert(db, embedding)
        return len(embedding.experts.case_ids)

    def remove(self, case_ids: Sequence[str]) -> int:
        """Removes all of these cases, or none where one is unknown; returns how many."""
        with self._transaction() as db:
            for case_id in case_ids:
                if db.execute("DELETE FROM cases WHERE case_id = ?", (case_id,)).rowcount == 0:
                    raise InputError(f"the index holds no case {case_id!r}; nothing was removed")
            db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")
        for stale in self.root.glob("*.usearch"):
            stale.unlink(missing_ok=True)
        return len(case_ids)

    def meta(self) -> dict:
        """Fingerprint, fusion, distance, roles, answer roles, generation …"""
        with self._reading() as db:
            return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}

    @property
    def checkpoint(self) -> Path:
        """The model that the vectors came from."""
        return self.root / "model.ckpt"

    @property
    def fusion(self) -> Fusion:
        """The model's fusion."""
        return from_plain(self.meta()["fusion"])

    def count(self) -> int:
        """How many cases it holds."""
        with self._reading() as db:
            return db.execute("SELECT count(*) FROM cases").fetchone()[0]

    def facts(self) -> tuple[list[int], list[Mapping]]:
        """Keys and facts of every case, in the order of the keys."""
        with self._reading() as db:
            rows = db.execute("SELECT id, facts FROM cases ORDER BY id").fetchall()
        return [key for key, _ in rows], [json.loads(text) for _, text in rows]

    def means(self) -> tuple[list[int], Float[np.ndarray, "N D"]]:
        """Keys and posterior means of all roles but the answer roles."""
        with self._reading() as db:
            rows = db.execute("SELECT id, mean FROM cases ORDER BY id").fetchall()
        width = len(rows[0][1]) // 4 if rows else 0
        return [key for key, _ in rows], np.frombuffer(b"".join(blob for _, blob in rows), "<f4").reshape(
            len(rows), width
        )

    def experts(self, roles: Sequence[str]) -> tuple[list[int], Experts]:
        """Keys and experts of these roles of every case."""
        meta = self.meta()
        order = [role for role in meta["roles"] if role in roles]
        marks = ",".join("?" * len(order))
        with self._reading() as db:
            ids = db.execute("SELECT id, case_id FROM cases ORDER BY id").fetchall()
            rows = db.execute(
                f"SELECT id, role, mean, logvar FROM experts WHERE role IN ({marks})", order
            ).fetchall()
            width = db.execute("SELECT length(mean) / 4 FROM experts LIMIT 1").fetchone()
        width = width[0] if width else 0
        place, column = {key: n for n, (key, _) in enumerate(ids)}, {role: m for m, role in enumerate(order)}
        mean = np.zeros((len(ids), len(order), width), np.float32)
        logvar, present = np.zeros_like(mean), np.zeros((len(ids), len(order)), bool)
        for key, role, a, b in rows:
            n, m = place[key], column[role]
            mean[n, m], logvar[n, m], present[n, m] = np.frombuffer(a, "<f4"), np.frombuffer(b, "<f4"), True
        answers = tuple(role for role in order if role in meta["answer_roles"])
        return [key for key, _ in ids], Experts(
            tuple(order), answers, tuple(case_id for _, case_id in ids), mean, logvar, present
        )
