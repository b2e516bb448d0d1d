"""The index folder: a SQLite file with facts, experts and points of all cases, changed by transactions, and the checkpoint."""

import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmvae.atomic import built_beside, new_folder, swap_folder
from mmvae.errors import InputError
from mmvae.retrieval.archive import UNNAMED, Archive
from mmvae.retrieval.embedding import Embedding
from mmvae.retrieval.experts import Experts
from mmvae.retrieval.facts import Facts
from mmvae.retrieval.provenance import Provenance

NETWORK_FILE_SYSTEMS = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "beegfs", "ceph", "9p", "afs", "gpfs"]
)
TABLES = {"meta", "cases", "experts"}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
  id INTEGER PRIMARY KEY AUTOINCREMENT, case_id TEXT NOT NULL UNIQUE, patient TEXT NOT NULL, facts TEXT NOT NULL, mean BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS experts (
  id INTEGER NOT NULL REFERENCES cases(id) ON DELETE CASCADE, role TEXT NOT NULL, answer INTEGER NOT NULL,
  mean BLOB NOT NULL, logvar BLOB NOT NULL, PRIMARY KEY (id, role)) WITHOUT ROWID;
"""
# All that SQLite then lists: type, name and definition of each object.
_OBJECTS = {
    ("table", statement.split()[5], " ".join(statement.strip(" ;\n").replace("IF NOT EXISTS ", "").split()))
    for statement in _SCHEMA.strip().split(";\n")
} | {
    ("table", "sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)"),
    ("index", "sqlite_autoindex_meta_1", None),
    ("index", "sqlite_autoindex_cases_1", None),
}


def file_system_of(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds a path, from the kernel's mount table; '' if there is no such table."""
    try:
        table = Path("/proc/mounts").read_text() if mounts is None else mounts
    except OSError:
        return ""
    longest, kind = "", ""
    for line in table.splitlines():
        _, mount, file_system, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        inside = str(path.absolute()) == mount or str(path.absolute()).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(longest):
            longest, kind = mount, file_system
    return kind


class Index:
    """An index folder: `index.sqlite` and `model.ckpt`. Every method opens a connection of its own.

    >>> from mmvae.latent.space import RetrievalSpace
    >>> import tempfile
    >>> mean = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], np.float32)  # of two cases, one role, two dimensions
    >>> experts = Experts(("t2",), (), ("c1", "c2"), mean, np.zeros_like(mean), np.ones((2, 1), bool))
    >>> provenance = Provenance("0" * 64, RetrievalSpace(), ("t2",), ())
    >>> points = experts.points(provenance.space, experts.present)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "model.ckpt").touch()
    ...     embedding = Embedding(Path(folder), provenance, experts, points, (Facts("c1", "p1"), Facts("c2", "p2")))
    ...     index = Index.build(embedding, Path(folder) / "archive")
    ...     archive = index.snapshot()
    ...     print(index.remove(["c2"]), index.count(), len(archive))  # what was read before stays as it was
    1 1 2
    """

    def __init__(self, root: Path):
        self.root = root
        self._last: Archive | None = None

    @classmethod
    def open(cls, root: str | Path) -> "Index":
        """The index in a folder.

        Raises:
            InputError: if there is none.
        """
        root = Path(root)
        if not (root / "index.sqlite").is_file():
            raise InputError(
                f"{root} is not an index: it has no index.sqlite. Build one from an embedding with `mmvae index build`."
            )
        return cls(root)

    @classmethod
    def build(cls, embedding: Embedding, out: Path) -> "Index":
        """A new index of an embedding; the folder appears whole, by a rename at the end."""
        with new_folder(out) as folder:
            cls(folder)._fill(embedding)
        return cls(out)

    def rebuild(self, embedding: Embedding) -> None:
        """Rebuilds this index from an embedding, possibly of another model, in one transaction like every other change.

        A reader sees the old index or the new one, and an addition comes before or after. Swapping folders would leave a
        moment without an index, and SQLite's own files of the two could mix; so only an index that can no longer be read is
        built beside its place and swapped in.
        """
        if not self._is_sound():
            beside = self.root.with_name(f".{self.root.name}.rebuilding")
            shutil.rmtree(beside, ignore_errors=True)
            Index.build(embedding, beside)
            swap_folder(beside, self.root)
            return
        # The model is replaced last, just before the rows are committed.
        with self._write_transaction() as db, built_beside(self.checkpoint, f"{os.getpid()}") as model:
            shutil.copyfile(embedding.root / "model.ckpt", model)
            for table in ("experts", "cases", "meta"):
                db.execute(f"DELETE FROM {table}")
            self._write_all(db, embedding)
        self._drop_graphs()

    def _is_sound(self) -> bool:
        """Whether it can be read."""
        try:
            self.snapshot()
        except InputError:
            return False
        return True

    def _drop_graphs(self) -> None:
        for stale in self.root.glob("*.usearch"):
            stale.unlink(missing_ok=True)

    def add(self, embedding: Embedding) -> int:
        """Adds all cases of an embedding of the same model, or none; returns how many."""
        with self._write_transaction() as db:
            own, other = self._value(db, "fingerprint"), embedding.provenance.fingerprint
            if own != other:
                raise InputError(
                    f"the embedding's model {other[:12]} is not the index's {str(own)[:12]}: their spaces cannot be compared. "
                    "Embed with the index's own model.ckpt, or `mmvae index rebuild` with the new one; an index of release 0.1 "
                    "takes new cases after `mmvae migrate`."
                )
            self._insert(db, embedding)
        return len(embedding.experts.case_ids)

    def remove(self, case_ids: Sequence[str]) -> int:
        """Removes all of these cases, or none if any is unknown; returns how many."""
        with self._write_transaction() as db:
            for case_id in case_ids:
                if db.execute("DELETE FROM cases WHERE case_id = ?", (case_id,)).rowcount == 0:
                    raise InputError(f"the index holds no case {case_id!r}; nothing was removed")
            self._count_change(db)
        self._drop_graphs()
        return len(case_ids)

    def rewrite_provenance(self, provenance: Provenance) -> None:
        """Replaces the stored provenance; the vectors stay."""
        with self._write_transaction() as db:
            db.execute("DELETE FROM meta WHERE key NOT IN ('generation', 'build')")
            self._write_meta(db, provenance.plain())
            self._count_change(db)

    @property
    def checkpoint(self) -> Path:
        """The model that the vectors came from."""
        return self.root / "model.ckpt"

    def count(self) -> int:
        """How many cases it holds."""
        with self._read_transaction() as db:
            return db.execute("SELECT count(*) FROM cases").fetchone()[0]

    def snapshot(self) -> Archive:
        """All that a search needs, read in one transaction; the last snapshot is reused while nothing has changed.

        Raises:
            InputError: if the file is damaged, or names a class that may not be loaded.
        """
        with self._read_transaction() as db:
            try:
                return self._read(db)
            except InputError:
                raise
            except (
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                ArithmeticError,
                RecursionError,
            ) as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise InputError(
                    f"{self.root}: index.sqlite is damaged ({why}); rebuild the index"
                ) from error

    def _read(self, db: sqlite3.Connection) -> Archive:
        """The last snapshot if nothing has changed since, else a new one."""
        meta = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}
        build, generation = str(meta.get("build", UNNAMED)), meta["generation"]
        build = build if build.isalnum() else UNNAMED  # it names a cache file
        if type(generation) is not int:
            raise InputError(
                f"{self.root}: the generation is {generation!r}, not a whole number; rebuild the index"
            )
        last = self._last
        if last is None or (last.build, last.generation) != (build, generation):
            last = self._last = self._archive(db, Provenance.read(meta), build, generation)
        return last

    def _archive(
        self, db: sqlite3.Connection, provenance: Provenance, build: str, generation: int
    ) -> Archive:
        cases = db.execute("SELECT id, case_id, facts, mean FROM cases ORDER BY id").fetchall()
        facts = tuple(Facts.read(json.loads(text)) for _, _, text, _ in cases)
        for (_, case_id, *_), fact in zip(cases, facts):
            if fact.case_id != case_id:
                raise InputError(
                    f"the index's case {case_id!r} holds the facts of {fact.case_id!r}. Rebuild it"
                )
        keys = np.array([key for key, *_ in cases], np.int64)
        points = _vectors([blob for *_, blob in cases], "points")
        experts = _experts(db, provenance, keys, tuple(case_id for _, case_id, _, _ in cases))
        return Archive(self.root, build, generation, provenance, keys, facts, experts, points)

    def _fill(self, embedding: Embedding) -> None:
        with self._write_transaction() as db:
            self._write_all(db, embedding)
        shutil.copyfile(embedding.root / "model.ckpt", self.checkpoint)

    def _write_all(self, db: sqlite3.Connection, embedding: Embedding) -> None:
        """Fills empty tables."""
        meta = {**embedding.provenance.plain(), "build": secrets.token_hex(8), "generation": 0}
        self._write_meta(db, meta)
        self._insert(db, embedding)

    @staticmethod
    def _write_meta(db: sqlite3.Connection, meta: dict[str, Any]) -> None:
        rows = [(key, json.dumps(value)) for key, value in meta.items()]
        db.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    @staticmethod
    def _value(db: sqlite3.Connection, key: str) -> Any:
        row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    @staticmethod
    def _count_change(db: sqlite3.Connection) -> None:
        db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")

    def _insert(self, db: sqlite3.Connection, embedding: Embedding) -> None:
        experts, answers = embedding.experts, set(embedding.experts.answer_roles)
        for n, fact in enumerate(embedding.facts):
            row = (fact.case_id, fact.patient, json.dumps(fact.plain()), _blob(embedding.points[n]))
            try:
                cursor = db.execute(
                    "INSERT INTO cases (case_id, patient, facts, mean) VALUES (?, ?, ?, ?)", row
                )
            except sqlite3.IntegrityError as error:
                raise InputError(
                    f"the index already holds case {fact.case_id}; remove it first (`mmvae index remove`). Nothing was added."
                ) from error
            db.executemany(
                "INSERT INTO experts VALUES (?, ?, ?, ?, ?)",
                [
                    (cursor.lastrowid, role, int(role in answers), _blob(experts.mean[n, m]), _blob(experts.logvar[n, m]))
                    for m, role in enumerate(experts.roles)
                    if experts.present[n, m]
                ],
            )  # fmt: skip
        self._count_change(db)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.root / "index.sqlite", timeout=60, isolation_level=None)
        try:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA foreign_keys = ON")
            yield db
        except sqlite3.DatabaseError as error:
            if isinstance(
                error, sqlite3.OperationalError
            ):  # a full disk, a lock: nothing is wrong with the file
                raise
            raise InputError(
                f"{self.root}: index.sqlite is damaged or no database ({error}); rebuild the index"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
            raise InputError(f"{self.root}: index.sqlite is damaged ({error}); rebuild the index") from error
        finally:
            db.close()

    @contextmanager
    def _write_transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are committed together or not at all."""
        with self._connection() as db:
            # Write-ahead logging needs shared memory, which network file systems do not provide.
            remote = file_system_of(self.root) in NETWORK_FILE_SYSTEMS
            db.execute(f"PRAGMA journal_mode = {'DELETE' if remote else 'WAL'}")
            db.execute(f"PRAGMA synchronous = {'FULL' if remote else 'NORMAL'}")
            db.execute("PRAGMA secure_delete = ON")
            db.execute("BEGIN IMMEDIATE")
            try:
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                _refuse_foreign_schema(db, self.root)
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _read_transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one consistent state of the index."""
        with self._connection() as db:
            db.execute("BEGIN")
            _refuse_foreign_schema(db, self.root)
            yield db


def _refuse_foreign_schema(db: sqlite3.Connection, root: Path) -> None:
    """Refuses a file with anything but our three tables as we define them: a foreign trigger or view would run with our rights."""
    found = {
        (kind, name, None if sql is None else " ".join(sql.split()))
        for kind, name, sql in db.execute("SELECT type, name, sql FROM sqlite_master")
    }
    if found != _OBJECTS:
        kind, name, _ = sorted(found ^ _OBJECTS, key=str)[0]
        raise InputError(
            f"{root}: expected index.sqlite to hold the tables {sorted(TABLES)} and nothing else; found or missing, or "
            f"defined otherwise: {kind} {name}. Build the index again"
        )


def _blob(vector: np.ndarray) -> bytes:
    return vector.astype("<f4").tobytes()


def _vectors(blobs: Sequence[object], what: str) -> Float[np.ndarray, "N W"]:
    """Little-endian float32 vectors of one width, from what a file holds: anything but bytes is refused."""
    vectors = [blob for blob in blobs if isinstance(blob, bytes)]
    widths = {len(blob) for blob in vectors} | ({-1} if len(vectors) < len(blobs) else set())
    if len(widths) > 1 or any(width <= 0 or width % 4 for width in widths):
        raise InputError(
            f"the index's {what} have widths of {sorted(widths)} bytes; expected a single width, a multiple of 4. Rebuild it"
        )
    width = next(iter(widths), 0) // 4
    array = np.frombuffer(b"".join(vectors), "<f4").astype(np.float32).reshape(len(blobs), width)
    if not np.isfinite(array).all():
        raise InputError(f"the index's {what} hold values that are not finite. Rebuild it")
    return array


def _experts(
    db: sqlite3.Connection, provenance: Provenance, keys: np.ndarray, case_ids: tuple[str, ...]
) -> Experts:
    """The experts of every case, in the order of the keys."""
    stored = db.execute("SELECT id, role, mean, logvar FROM experts").fetchall()
    column = {role: m for m, role in enumerate(provenance.roles)}
    unknown = {role for _, role, _, _ in stored} - set(column)
    if unknown:
        raise InputError(
            f"the index holds experts of {sorted(map(str, unknown))}, but its roles are {list(column)}. Rebuild it"
        )
    mean_of = _vectors([mean for _, _, mean, _ in stored], "means")
    logvar_of = _vectors([logvar for _, _, _, logvar in stored], "log-variances")
    if mean_of.shape != logvar_of.shape:
        raise InputError("the index's means and log-variances have different widths. Rebuild it")
    of_case = np.array([key for key, *_ in stored], np.int64)
    if not np.isin(of_case, keys).all():
        raise InputError("the index holds experts of a case that it does not hold. Rebuild it")
    n = np.searchsorted(keys, of_case)
    m = np.array([column[role] for _, role, _, _ in stored], int)
    mean = np.zeros((len(keys), len(column), mean_of.shape[1]), np.float32)
    logvar, present = np.zeros_like(mean), np.zeros(mean.shape[:2], bool)
    if len(stored):
        mean[n, m], logvar[n, m], present[n, m] = mean_of, logvar_of, True
    return Experts(provenance.roles, provenance.answer_roles, case_ids, mean, logvar, present)
