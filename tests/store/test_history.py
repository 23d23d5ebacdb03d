"""The versions of adapters: what is remembered, what is forgotten, and that nobody fails for it."""

import concurrent.futures
import contextlib
import pathlib
import sqlite3

import pytest
from structlog import testing

from bertd import errors
from bertd.store import history


@pytest.fixture(name="path")
def _path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "history.sqlite"


def served(digest: str, since: str = "2026-01-01T00:00:00Z", adapter: str = "cola"):
    """What an adapter of the model `english` serves from now on."""
    return history.Served(model="english", adapter=adapter, digest=digest, since=since)


def digests(log: history.History, adapter: str = "cola") -> list[str]:
    """The versions of an adapter, newest first."""
    return [each.digest for each in log.of("english", adapter)]


def test_each_new_digest_is_a_version(path):
    """Newest first, with the time from which on it was served; an equal digest is no news."""
    with history.History(path) as log:
        log.record([served("d1", "t1")])
        log.record([served("d1", "t2")])
        log.record([served("d2", "t3")])
        log.record([served("d1", "t4")])
        got = [(each.digest, each.since) for each in log.of("english", "cola")]
    assert got == [("d1", "t4"), ("d2", "t3"), ("d1", "t1")]


def test_adapters_have_their_own_versions(path):
    """By Model and by name; of others nothing is known."""
    with history.History(path) as log:
        log.record([served("d1"), served("d2", adapter="sst2")])
        assert digests(log) == ["d1"]
        assert digests(log, "sst2") == ["d2"]
        assert log.of("german", "cola") == ()


def test_the_last_versions_are_kept(path):
    """Ten of each adapter, whatever the number of changes."""
    with history.History(path) as log:
        log.record([served("other", adapter="sst2")])
        for number in range(25):
            log.record([served(f"d{number}")])
        assert digests(log) == [f"d{number}" for number in range(24, 14, -1)]
        assert digests(log, "sst2") == ["other"]


def test_versions_survive_a_restart(path):
    """The next daemon knows them, and adds nothing for what it serves again."""
    for _ in range(2):
        with history.History(path) as log:
            log.record([served("d1")])
            assert digests(log) == ["d1"]


def test_the_number_of_all_versions_is_bounded(path, monkeypatch):
    """The oldest go first, also those of adapters that are no longer declared."""
    monkeypatch.setattr(history, "KEPT_ROWS", 20)
    monkeypatch.setattr(history, "ROWS_AFTER_TRIMMING", 18)
    with history.History(path) as log:
        for number in range(20):
            log.record([served("d", f"t{number:02}", adapter=f"a{number:02}")])
        assert digests(log, "a00") == ["d"]
        log.record([served("d", "t99", adapter="last")])
        left = [name for number in range(20) if digests(log, name := f"a{number:02}")]
        assert left == [f"a{number:02}" for number in range(3, 20)]
        assert digests(log, "last") == ["d"]
    with history.History(path) as log:
        log.record([served("d", "t99", adapter=f"more{n}") for n in range(2)])
        assert digests(log, "a03") == ["d"]


@pytest.mark.parametrize(
    "content", [b"no database, but long enough to be read as one" * 40, b"\0" * 5000]
)
def test_a_broken_file_is_started_anew(path, content):
    """It is a log: the daemon starts, and says that it lost something."""
    path.write_bytes(content)
    with testing.capture_logs() as logs, history.History(path) as log:
        log.record([served("d1")])
        assert digests(log) == ["d1"]
    assert [each["event"] for each in logs] == ["versions are lost: their file is started anew"]


def test_a_page_that_broke_is_noticed_at_the_start(path):
    """A torn page inside a file that is a database otherwise."""
    with history.History(path) as log:
        log.record([served("d", adapter=f"a{number}") for number in range(500)])
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xff" * 4096 + content[12288:])
    with testing.capture_logs() as logs, history.History(path) as log:
        assert digests(log, "a7") == []
    assert len(logs) == 1


def test_another_format_is_started_anew(path):
    """What a later bertd wrote is not guessed at."""
    with history.History(path) as log:
        log.record([served("d1")])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 7")
    with testing.capture_logs() as logs, history.History(path) as log:
        assert digests(log) == []
    assert "format 7" in logs[0]["error"]


def test_a_full_disk_costs_versions_and_nothing_else(path):
    """What cannot be written is warned of; what was written can still be read."""
    with history.History(path) as log:
        log.record([served("d1")])
        (pages,) = log._database.execute("PRAGMA page_count").fetchone()
        log._database.execute(f"PRAGMA max_page_count = {pages}")
        with testing.capture_logs() as logs:
            log.record([served("d2", adapter=f"a{number}") for number in range(1_000)])
        assert [each["event"] for each in logs] == ["versions could not be written"]
        assert digests(log) == ["d1"]
        assert digests(log, "a7") == []
        log.record([served("d3")])
        assert digests(log) == ["d3", "d1"]


def test_a_file_that_breaks_while_running_is_a_warning(path):
    """Neither reading nor writing fails its caller."""
    with history.History(path) as log:
        log.record([served("d1")])
        log._database.execute("DROP TABLE versions")
        with testing.capture_logs() as logs:
            assert log.of("english", "cola") == ()
            log.record([served("d2")])
    assert [each["log_level"] for each in logs] == ["warning", "warning"]


def test_a_place_that_cannot_be_used_is_temporary(tmp_path):
    """A missing directory is an error that names the file."""
    with pytest.raises(errors.Temporary, match="absent") as raised:
        history.History(tmp_path / "absent" / "history.sqlite")
    assert raised.value.reason == "StateUnavailable"


def test_threads_may_share_a_history(path):
    """Concurrent writers and readers neither fail nor lose anything."""
    names = [f"a{number}" for number in range(40)]

    def work(name: str) -> list[str]:
        log.record([served("d1", adapter=name), served("d2", adapter=name)])
        return digests(log, name)

    with (
        history.History(path) as log,
        concurrent.futures.ThreadPoolExecutor(8) as threads,
        testing.capture_logs() as logs,
    ):
        assert list(threads.map(work, names)) == [["d2", "d1"]] * 40
    assert logs == []
