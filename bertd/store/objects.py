"""Declared objects on disk: SQLite in which every change is whole, and no bit flip goes unnoticed.

One row per object, one transaction per apply, `synchronous=FULL`: `kill -9` anywhere leaves the old
or the new state. SQLite alone notices neither a flipped bit nor a lost row, so each row carries a
sha256 over its own content, and the table one over all of these; both are checked when read.
"""

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bertd import errors
from bertd.manifest import views

FORMAT = 1
PAGE_LIMIT_OBJECTS = 1_000
BUSY_TIMEOUT_S = 5.0
DISK_TROUBLES = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY}
)
TABLES = """
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
  labels TEXT NOT NULL, spec TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS root (sha256 TEXT NOT NULL) STRICT;
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object as it was declared, every default written out."""

    kind: views.Kind
    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    generation: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an apply wants an object to be."""

    kind: views.Kind
    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    expected_generation: int | None = None
    """Refuse unless the stored generation is this one (0: must not exist); None: any."""


class Objects:
    """The object store of one daemon. Methods may be called from any thread and block on the disk.

    All methods raise Temporary when the disk fails (full, unreadable, busy) and BadArtifact with
    reason StateCorrupt, naming the object or the file, when content is not what was written.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path`, and check all of it."""
        self._path = path
        self._lock = threading.Lock()
        with self._translating():
            self._database = _opened(path)
        try:
            with self._locked():
                self._prepare()
                self._check_root()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; it was durable before."""
        with self._lock:
            self._database.close()

    def apply_many(
        self, wanted: Sequence[Wanted], *, dry_run: bool = False
    ) -> tuple[views.Applied, ...]:
        """Store all objects or none, in one transaction; says what happened to each, in order.

        The generation moves if and only if the spec changes. A dry run does the same and then
        takes it back. Raises Conflict when an `expected_generation` does not hold.
        """
        with self._transaction(undo=dry_run):
            return tuple(self._apply(one) for one in wanted)

    def get(self, kind: views.Kind, name: str) -> Stored:
        """One object; raises NotFound."""
        with self._locked():
            stored = self._find(kind, name)
        if stored is None:
            raise _missing(kind, name)
        return stored

    def list(
        self, kind: views.Kind, *, after: str = "", limit: int = PAGE_LIMIT_OBJECTS
    ) -> tuple[Stored, ...]:
        """At most `limit` objects in order of names, beginning after the name `after`."""
        query = "SELECT * FROM objects WHERE kind = ? AND name > ? ORDER BY name LIMIT ?"
        with self._locked():
            rows = self._database.execute(query, (kind, after, min(limit, PAGE_LIMIT_OBJECTS)))
            return tuple(self._checked(row) for row in rows)

    def every(self, kind: views.Kind) -> Iterator[Stored]:
        """All objects of a kind, in order of names; changes made meanwhile may or may not show."""
        after = ""
        while page := self.list(kind, after=after):
            yield from page
            after = page[-1].name

    def delete(self, kind: views.Kind, name: str) -> None:
        """Forget one object; raises NotFound."""
        with self._transaction():
            gone = self._database.execute(
                "DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name)
            )
            if gone.rowcount == 0:
                raise _missing(kind, name)

    def _apply(self, wanted: Wanted) -> views.Applied:
        stored = self._find(wanted.kind, wanted.name)
        generation = 0 if stored is None else stored.generation
        if wanted.expected_generation not in (None, generation):
            raise errors.Conflict(
                f"{wanted.kind} '{wanted.name}' has generation {generation}, "
                f"not {wanted.expected_generation}",
                hint="read it again, then apply again",
            )
        if stored is None or stored.spec != wanted.spec:
            generation += 1
        elif stored.labels == wanted.labels:
            return _applied(wanted, "unchanged", generation)
        self._write(wanted, generation)
        return _applied(wanted, "created" if stored is None else "configured", generation)

    def _write(self, wanted: Wanted, generation: int) -> None:
        labels, spec = _json(wanted.labels), _json(wanted.spec)
        content = (wanted.kind, wanted.name, generation, labels, spec)
        self._database.execute(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)",
            (*content, _sha256(content)),
        )

    def _find(self, kind: str, name: str) -> Stored | None:
        query = "SELECT * FROM objects WHERE kind = ? AND name = ?"
        row = self._database.execute(query, (kind, name)).fetchone()
        return None if row is None else self._checked(row)

    def _checked(self, row: tuple[Any, ...]) -> Stored:
        kind, name, generation, labels, spec, digest = row
        if _sha256(row[:-1]) != digest:
            raise self._corrupt(f"the stored {kind} '{name}' is not what was written")
        return Stored(
            kind=kind,
            name=name,
            labels=json.loads(labels),
            spec=json.loads(spec),
            generation=generation,
        )

    def _prepare(self) -> None:
        written = self._database.execute("PRAGMA user_version").fetchone()[0]
        if written > FORMAT:
            raise errors.Conflict(
                f"'{self._path}' has format {written}, this version of bertd reads up to {FORMAT}",
                hint="start the newer bertd, or choose another state directory",
            )
        self._database.executescript(TABLES)
        self._database.execute(f"PRAGMA user_version = {FORMAT}")

    def _check_root(self) -> None:
        for row in self._database.execute("SELECT * FROM objects"):
            self._checked(row)
        rows = self._database.execute("SELECT sha256 FROM root").fetchall()
        if rows != [(self._root(),)] and (rows or self._count()):
            raise self._corrupt("objects were lost or added")

    def _root(self) -> str:
        rows = self._database.execute("SELECT sha256 FROM objects ORDER BY kind, name").fetchall()
        return _sha256(rows)

    def _count(self) -> int:
        count: int = self._database.execute("SELECT count(*) FROM objects").fetchone()[0]
        return count

    def _corrupt(self, what: str) -> errors.BadArtifact:
        return errors.BadArtifact(
            f"{what} (in '{self._path}')",
            reason="StateCorrupt",
            hint="restore the file from a backup, or remove it and apply the manifests again",
        )

    @contextlib.contextmanager
    def _transaction(self, *, undo: bool = False) -> Iterator[None]:
        """All or nothing; the root digest is part of it."""
        with self._locked():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("DELETE FROM root")
                self._database.execute("INSERT INTO root VALUES (?)", (self._root(),))
                self._database.execute("ROLLBACK" if undo else "COMMIT")
            except BaseException:
                # After a failed disk operation SQLite may have rolled back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock, self._translating():
            yield

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """SQLite's errors by what to do next."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if code & 0xFF in DISK_TROUBLES or code & 0xFF == sqlite3.SQLITE_CANTOPEN:
                raise errors.Temporary(
                    f"the object store '{self._path}' cannot be used: {error}",
                    reason="StateUnavailable",
                    hint="free space on its disk, or mend its permissions",
                ) from error
            raise self._corrupt(f"the object store is broken: {error}") from error


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _applied(wanted: Wanted, action: views.Action, generation: int) -> views.Applied:
    return views.Applied(kind=wanted.kind, name=wanted.name, action=action, generation=generation)


def _missing(kind: str, name: str) -> errors.NotFound:
    return errors.NotFound(f"there is no {kind} '{name}'", hint=f"see `bertd get {kind.lower()}s`")


def _json(value: Mapping[str, Any]) -> str:
    """Key order is kept: labels of an adapter have one, and `get -o yaml` shows it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _sha256(value: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
