"""Which file an adapter served, and since when: a log for people, in SQLite beside the objects.

A version is the digest of an adapter's file. Nothing depends on this file: what cannot be written
is warned of and left out, and a broken file is started anew.
"""

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import structlog

from bertd import errors
from bertd.store import objects

KEPT_VERSIONS: Final = 10  # of each adapter
KEPT_ROWS: Final = 1_000_000  # of all, those that are no longer declared included
ROWS_AFTER_TRIMMING: Final = KEPT_ROWS * 9 // 10
FORMAT: Final = 1

TABLES: Final = """
CREATE TABLE IF NOT EXISTS versions (
  model TEXT NOT NULL, adapter TEXT NOT NULL, number INTEGER NOT NULL,
  digest TEXT NOT NULL, since TEXT NOT NULL, PRIMARY KEY (model, adapter, number)
) STRICT, WITHOUT ROWID
"""
NEWEST: Final = "SELECT digest, since FROM versions WHERE model = ? AND adapter = ?"
ADD: Final = """
WITH known AS (SELECT number, digest FROM versions WHERE model = ?1 AND adapter = ?2
               ORDER BY number DESC LIMIT 1)
INSERT INTO versions SELECT ?1, ?2, coalesce((SELECT number FROM known), 0) + 1, ?3, ?4
WHERE (SELECT digest FROM known) IS NOT ?3
"""
FORGET: Final = f"""
DELETE FROM versions WHERE model = ?1 AND adapter = ?2 AND number <= (
  SELECT max(number) FROM versions WHERE model = ?1 AND adapter = ?2) - {KEPT_VERSIONS}
"""
TRIM: Final = """
DELETE FROM versions WHERE (model, adapter, number) IN (
  SELECT model, adapter, number FROM versions ORDER BY since LIMIT ?)
"""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """From `since` (RFC 3339, UTC) on, an adapter served the file with this sha256."""

    model: str
    adapter: str
    digest: str
    since: str


class History:
    """The versions of every adapter. Methods may be called from any thread and never fail.

    Reads see what was last written and never wait for what is being written.

    Raises:
        errors.Temporary: the directory cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._rows = 0
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if objects.is_of_disk(error):
                raise _unusable(path, error) from error
            log.warning("versions are lost: their file is started anew", error=str(error))
            self._start_anew()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._reading, self._writing:
            self._reader.close()
            self._database.close()

    def record(self, served: Iterable[Served]) -> None:
        """Remember what adapters serve from now on, in one transaction; equal digests are no news.

        The last `KEPT_VERSIONS` of each adapter are kept.
        """
        rows = [(each.model, each.adapter, each.digest, each.since) for each in served]
        with self._writing, self._warning("versions could not be written"):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                added = self._changed(ADD, rows)
                forgotten = self._changed(FORGET, [row[:2] for row in rows])
                kept = self._trimmed(self._rows + added - forgotten)
                self._database.execute("COMMIT")
                self._rows = kept
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def of(self, model: str, adapter: str) -> tuple[Served, ...]:
        """What an adapter served, newest first; the first is what it serves now, if it does."""
        rows: list[tuple[str, str]] = []
        with self._reading, self._warning("versions could not be read"):
            newest = f"{NEWEST} ORDER BY number DESC"
            rows = self._reader.execute(newest, (model, adapter)).fetchall()
        return tuple(
            Served(model=model, adapter=adapter, digest=digest, since=since)
            for digest, since in rows
        )

    def _open(self) -> None:
        with contextlib.ExitStack() as undo:
            self._database = objects.opened(self._path, synchronous="NORMAL")
            undo.callback(self._database.close)
            written = self._database.execute("PRAGMA user_version").fetchone()[0]
            if written not in (0, FORMAT):
                raise sqlite3.DatabaseError(f"it has format {written}, not {FORMAT}")
            if not written:
                self._database.execute(TABLES)
                self._database.execute(f"PRAGMA user_version = {FORMAT}")
            found = self._database.execute("PRAGMA quick_check").fetchall()
            if found != [("ok",)]:
                raise sqlite3.DatabaseError(str(found[0][0]))
            self._rows = self._database.execute("SELECT count(*) FROM versions").fetchone()[0]
            self._reader = objects.opened(self._path, synchronous="NORMAL")
            undo.pop_all()

    def _start_anew(self) -> None:
        try:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            self._open()
        except (OSError, sqlite3.DatabaseError) as error:
            raise _unusable(self._path, error) from error

    def _changed(self, statement: str, values: Iterable[Sequence[str]]) -> int:
        before = self._database.total_changes
        self._database.executemany(statement, values)
        return self._database.total_changes - before

    def _trimmed(self, rows: int) -> int:
        """How many rows are left, the oldest removed if there were too many."""
        if rows <= KEPT_ROWS:
            return rows
        self._database.execute(TRIM, (rows - ROWS_AFTER_TRIMMING,))
        return ROWS_AFTER_TRIMMING

    @contextlib.contextmanager
    def _warning(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            log.warning(what, file=str(self._path), error=str(error))


def _unusable(path: Path, error: Exception) -> errors.Temporary:
    return errors.Temporary(
        f"versions cannot be kept in '{path}': {error}",
        reason="StateUnavailable",
        hint="free space on its disk, or mend its permissions",
    )
