"""Declared objects on disk: SQLite in which every change is whole, and no bit flip goes unnoticed.

One row per object, one transaction per apply, `synchronous=FULL`: `kill -9` anywhere leaves the old
or the new state. SQLite alone notices neither a flipped bit nor a lost row, so each row carries a
sha256 over its own content, checked whenever it is read, and the table the sum of these, checked at
the start. A sum, because a change of one row then costs no look at the others.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bertd import errors
from bertd.manifest import views

FORMAT = 2  # 1: `root` was a sha256 over all digests in order, and there was no index
PAGE_LIMIT_OBJECTS = 1_001  # the largest page that is shown, and whether another follows
NAMES_PER_QUERY = 500  # SQLite refuses a query with over 999 values on old systems
ROOT_MODULUS = 1 << 256
_DIGEST = re.compile(r"[0-9a-f]{64}")
BUSY_TIMEOUT_S = 5.0
DISK_TROUBLES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }
)
TABLES = """
CREATE TABLE IF NOT EXISTS objects (
  kind TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
  labels TEXT NOT NULL, spec TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS root (sha256 TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS adapters_by_model ON objects (json_extract(spec, '$.model'), name)
  WHERE kind = 'Adapter';
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

    Reads see the last transaction and never wait for one that is being written. All methods raise
    Temporary when the disk fails (full, unreadable, busy) and BadArtifact with reason StateCorrupt,
    naming the object or the file, when content is not what was written.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database at `path`, and check all of it."""
        self._path = path
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        with contextlib.ExitStack() as undo, self._translating():
            self._database = opened(path, synchronous="FULL")
            undo.callback(self._database.close)
            self._prepare()
            self._reader = opened(path, synchronous="FULL")
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; it was durable before."""
        with self._reading, self._writing:
            self._reader.close()
            self._database.close()

    def apply_many(
        self, wanted: Sequence[Wanted], *, dry_run: bool = False
    ) -> tuple[views.Applied, ...]:
        """Store all objects or none, in one transaction; says what happened to each, in order.

        The generation moves if and only if the spec changes. A dry run does the same and then
        takes it back. Raises Conflict when an `expected_generation` does not hold.
        """
        with self._transaction(undo=dry_run) as total:
            return tuple(self._apply(one, total) for one in wanted)

    def get(self, kind: views.Kind, name: str) -> Stored:
        """One object; raises NotFound."""
        query = "SELECT * FROM objects WHERE kind = ? AND name = ?"
        found = self._read(query, (kind, name))
        if not found:
            raise _missing(kind, name)
        return found[0]

    def some(self, kind: views.Kind, names: Sequence[str]) -> tuple[Stored, ...]:
        """The objects of these names that exist, in no order."""
        found: tuple[Stored, ...] = ()
        for at in range(0, len(names), NAMES_PER_QUERY):
            part = names[at : at + NAMES_PER_QUERY]
            marks = ", ".join("?" * len(part))
            query = f"SELECT * FROM objects WHERE kind = ? AND name IN ({marks})"
            found += self._read(query, (kind, *part))
        return found

    def list(
        self, kind: views.Kind, *, after: str = "", limit: int = PAGE_LIMIT_OBJECTS
    ) -> tuple[Stored, ...]:
        """At most `limit` objects in order of names, beginning after the name `after`."""
        query = "SELECT * FROM objects WHERE kind = ? AND name > ? ORDER BY name LIMIT ?"
        return self._read(query, (kind, after, min(limit, PAGE_LIMIT_OBJECTS)))

    def list_of_model(
        self, model: str, *, after: str = "", limit: int = PAGE_LIMIT_OBJECTS
    ) -> tuple[Stored, ...]:
        """As `list`, of the Adapters whose `spec.model` is this one."""
        query = (
            "SELECT * FROM objects WHERE kind = 'Adapter' AND json_extract(spec, '$.model') = ? "
            "AND name > ? ORDER BY name LIMIT ?"
        )
        return self._read(query, (model, after, min(limit, PAGE_LIMIT_OBJECTS)))

    def models_of_adapters(self) -> set[str]:
        """Every Model that an Adapter names, declared or not."""
        query = "SELECT DISTINCT json_extract(spec, '$.model') FROM objects WHERE kind = 'Adapter'"
        with self._reading, self._translating():
            return {model for (model,) in self._reader.execute(query)}

    def every(self, kind: views.Kind) -> Iterator[Stored]:
        """All objects of a kind, in order of names; changes made meanwhile may or may not show."""
        return _paged(lambda after: self.list(kind, after=after))

    def of_model(self, model: str) -> Iterator[Stored]:
        """As `every`, of the Adapters whose `spec.model` is this one; others cost nothing."""
        return _paged(lambda after: self.list_of_model(model, after=after))

    def delete(self, kind: views.Kind, name: str) -> None:
        """Forget one object; raises NotFound."""
        with self._transaction() as total:
            query = "SELECT sha256 FROM objects WHERE kind = ? AND name = ?"
            found = self._database.execute(query, (kind, name)).fetchone()
            if found is None:
                raise _missing(kind, name)
            self._database.execute("DELETE FROM objects WHERE kind = ? AND name = ?", (kind, name))
            total.replace(found[0], None)

    def _apply(self, wanted: Wanted, total: "_Total") -> views.Applied:
        query = "SELECT * FROM objects WHERE kind = ? AND name = ?"
        row = self._database.execute(query, (wanted.kind, wanted.name)).fetchone()
        stored = None if row is None else self._checked(row)
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
        total.replace(None if row is None else row[-1], self._write(wanted, generation))
        return _applied(wanted, "created" if stored is None else "configured", generation)

    def _write(self, wanted: Wanted, generation: int) -> str:
        labels, spec = _json(wanted.labels), _json(wanted.spec)
        content = (wanted.kind, wanted.name, generation, labels, spec)
        digest = _sha256(content)
        self._database.execute(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)", (*content, digest)
        )
        return digest

    def _read(self, query: str, values: Sequence[object]) -> tuple[Stored, ...]:
        with self._reading, self._translating():
            rows = self._reader.execute(query, values).fetchall()
        return tuple(map(self._checked, rows))

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
        """Makes the tables, or checks all that is in them; an older format becomes this one."""
        written = self._database.execute("PRAGMA user_version").fetchone()[0]
        if written > FORMAT:
            raise errors.Conflict(
                f"'{self._path}' has format {written}, this version of bertd reads up to {FORMAT}",
                hint="start the newer bertd, or choose another state directory",
            )
        # The last table to be made: without it nothing was ever stored.
        if self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'root'").fetchone():
            self._check_rows(_root if written == FORMAT else _root_of_format_1)
        if written == FORMAT:
            return
        self._database.execute("BEGIN IMMEDIATE")
        with self._finishing():
            for statement in TABLES.split(";"):
                self._database.execute(statement)
            digests = self._digests()
            self._database.execute("DELETE FROM root")
            self._database.execute("INSERT INTO root VALUES (?)", (_root(digests),))
            self._database.execute(f"PRAGMA user_version = {FORMAT}")

    def _check_rows(self, root_of: Callable[[Sequence[str]], str]) -> None:
        for row in self._database.execute("SELECT * FROM objects"):
            self._checked(row)
        digests = self._digests()
        roots = self._database.execute("SELECT sha256 FROM root").fetchall()
        if roots != [(root_of(digests),)] and (roots or digests):
            raise self._corrupt("objects were lost or added")
        # The content is whole; an index that is not would hide some of it.
        if self._database.execute("PRAGMA integrity_check('objects')").fetchall() != [("ok",)]:
            raise self._corrupt("the index of objects is broken")

    def _digests(self) -> Sequence[str]:
        query = "SELECT sha256 FROM objects ORDER BY kind, name"
        return [digest for (digest,) in self._database.execute(query)]

    def _corrupt(self, what: str) -> errors.BadArtifact:
        return errors.BadArtifact(
            f"{what} (in '{self._path}')",
            reason="StateCorrupt",
            hint="restore the file from a backup, or remove it and apply the manifests again",
        )

    @contextlib.contextmanager
    def _transaction(self, *, undo: bool = False) -> Iterator["_Total"]:
        """All or nothing; the root digest is part of it."""
        with self._writing, self._translating():
            self._database.execute("BEGIN IMMEDIATE")
            with self._finishing(undo=undo):
                total = _Total(self._root())
                yield total
                if total.changed:
                    self._database.execute("UPDATE root SET sha256 = ?", (str(total),))

    @contextlib.contextmanager
    def _finishing(self, *, undo: bool = False) -> Iterator[None]:
        """Ends the transaction that has begun."""
        try:
            yield
            self._database.execute("ROLLBACK" if undo else "COMMIT")
        except BaseException:
            # After a failed disk operation SQLite may have rolled back already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _root(self) -> str:
        rows: list[tuple[str]] = self._database.execute("SELECT sha256 FROM root").fetchall()
        if len(rows) != 1 or not _is_digest(rows[0][0]):
            raise self._corrupt("objects were lost or added")
        return rows[0][0]

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """SQLite's errors by what to do next."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if is_of_disk(error):
                raise errors.Temporary(
                    f"the object store '{self._path}' cannot be used: {error}",
                    reason="StateUnavailable",
                    hint="free space on its disk, or mend its permissions",
                ) from error
            raise self._corrupt(f"the object store is broken: {error}") from error


def is_of_disk(error: sqlite3.DatabaseError) -> bool:
    """Whether the disk is to blame, and not what is written on it."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in DISK_TROUBLES


class _Total:
    """The sum of the digests of all rows, followed through one transaction."""

    def __init__(self, written: str) -> None:
        self._sum = int(written, 16)
        self.changed = False

    def replace(self, old: str | None, new: str | None) -> None:
        """One row went, or came, or both; a damaged digest that goes leaves the sum damaged."""
        gone = int(old, 16) if old is not None and _is_digest(old) else 0
        self._sum = (self._sum - gone + int(new or "0", 16)) % ROOT_MODULUS
        self.changed = True

    def __str__(self) -> str:
        return f"{self._sum:064x}"


def _paged(page_after: Callable[[str], Sequence[Stored]]) -> Iterator[Stored]:
    after = ""
    while page := page_after(after):
        yield from page
        after = page[-1].name


def _root(digests: Sequence[str]) -> str:
    total = _Total("0")
    for digest in digests:
        total.replace(None, digest)
    return str(total)


def _root_of_format_1(digests: Sequence[str]) -> str:
    return _sha256([(digest,) for digest in digests])


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def opened(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """A connection in WAL mode, without transactions of its own, for any thread."""
    database = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
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
