"""The object store: what an apply does, and that nothing is ever half done or silently damaged."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from bertd import errors
from bertd.manifest import views
from bertd.store import objects


def wanted(name: str = "english", *, kind: views.Kind = "Model", **changes: Any) -> objects.Wanted:
    """An object to apply; `changes` as in `objects.Wanted`."""
    fields: dict[str, Any] = {"labels": {}, "spec": {"maxLength": 1}, **changes}
    return objects.Wanted(kind=kind, name=name, **fields)


def adapter(name: str, model: str = "english") -> objects.Wanted:
    """An Adapter object to apply."""
    return wanted(name, kind="Adapter", spec={"model": model, "source": f"/{name}"})


@pytest.fixture(name="path")
def _path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "objects.sqlite"


def done(applied: tuple[views.Applied, ...]) -> list[tuple[str, int]]:
    """What the command line prints, and generations."""
    return [(str(one), one.generation) for one in applied]


def test_an_apply_says_what_it_did(path: pathlib.Path) -> None:
    """New objects are created, changed ones configured, equal ones unchanged (checklist 17)."""
    with objects.Objects(path) as store:
        both = [wanted("a"), wanted("b")]
        assert done(store.apply_many(both)) == [("model/a created", 1), ("model/b created", 1)]
        both = [wanted("a"), wanted("b", spec={"maxLength": 2})]
        assert done(store.apply_many(both)) == [("model/a unchanged", 1), ("model/b configured", 2)]


def test_only_the_spec_moves_the_generation(path: pathlib.Path) -> None:
    """Labels configure without a new generation; a spec change adds one (checklist 12)."""
    with objects.Objects(path) as store:
        store.apply_many([wanted()])
        assert done(store.apply_many([wanted(labels={"team": "x"})])) == [
            ("model/english configured", 1)
        ]
        assert store.get("Model", "english").labels == {"team": "x"}
        assert store.apply_many([wanted(spec={"maxLength": 2})])[0].generation == 2
        assert store.apply_many([wanted(spec={"maxLength": 1})])[0].generation == 3


def test_key_order_is_no_change(path: pathlib.Path) -> None:
    """A spec whose keys come in another order is unchanged."""
    with objects.Objects(path) as store:
        store.apply_many([wanted(spec={"a": 1, "b": {"c": [1], "d": 2}})])
        again = store.apply_many([wanted(spec={"b": {"d": 2, "c": [1]}, "a": 1})])
        assert again[0].action == "unchanged"


def test_objects_survive_a_restart(path: pathlib.Path) -> None:
    """What was applied is read back by the next daemon exactly, whatever characters it holds."""
    spec = {"labelNames": ["fröhlich", "👩‍🚀"], "temperature": 0.1, "digest": None, "on": True}
    with objects.Objects(path) as store:
        store.apply_many([wanted(spec=spec, labels={"a": "b"})])
    with objects.Objects(path) as store:
        assert store.get("Model", "english") == objects.Stored(
            kind="Model", name="english", labels={"a": "b"}, spec=spec, generation=1
        )


def test_kinds_do_not_meet(path: pathlib.Path) -> None:
    """A Model and an Adapter of one name are two objects."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("x"), wanted("x", kind="Adapter")])
        store.delete("Model", "x")
        assert store.list("Model") == ()
        assert [one.kind for one in store.list("Adapter")] == ["Adapter"]


def test_listing_goes_by_pages(path: pathlib.Path) -> None:
    """Pages come in order of names, each after the last name of the one before."""
    with objects.Objects(path) as store:
        names = [f"a{number}" for number in range(2_500)]
        store.apply_many([wanted(name) for name in names])
        assert [one.name for one in store.list("Model", limit=3)] == sorted(names)[:3]
        assert [one.name for one in store.list("Model", after="a10", limit=1)] == ["a100"]
        assert len(store.list("Model", limit=10_000)) == objects.PAGE_LIMIT_OBJECTS
        assert [one.name for one in store.every("Model")] == sorted(names)
        assert list(store.every("Adapter")) == []


def test_adapters_are_found_by_their_model(path: pathlib.Path) -> None:
    """However many others there are, each Model's own come in order of names (issue 3)."""
    with objects.Objects(path) as store:
        names = [f"a{number}" for number in range(1_500)]
        store.apply_many([adapter(name) for name in names])
        store.apply_many([adapter("b", "german"), wanted("english"), adapter("a7", "german")])
        kept = sorted({*names} - {"a7"})
        assert [one.name for one in store.of_model("english")] == kept
        assert [one.name for one in store.of_model("german")] == ["a7", "b"]
        assert list(store.of_model("nobody")) == []
        page = store.list_of_model("german", after="a7", limit=5)
        assert [one.name for one in page] == ["b"]
        assert store.models_of_adapters() == {"english", "german"}
        store.delete("Adapter", "b")
        assert [one.name for one in store.of_model("german")] == ["a7"]


def test_some_objects_are_read_at_once(path: pathlib.Path) -> None:
    """Names that nothing has are left out, however many are asked."""
    with objects.Objects(path) as store:
        store.apply_many([wanted(f"a{number}") for number in range(600)])
        asked = [f"a{number}" for number in range(1_200)]
        found = store.some("Model", asked)
        assert sorted(one.name for one in found) == sorted(asked[:600])
        assert store.some("Adapter", asked) == ()
        assert store.some("Model", []) == ()


def test_reading_does_not_wait_for_writing(path: pathlib.Path) -> None:
    """While an apply is being written, others read what was there before it."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("a")])
        with store._transaction():
            store._apply(wanted("b"), objects._Total("0"))
            assert [one.name for one in store.list("Model")] == ["a"]
            assert store.get("Model", "a").generation == 1


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_an_unknown_object_is_not_found(path: pathlib.Path, verb: str) -> None:
    """Reading or deleting what is not there names it and where to look."""
    expected = r"there is no Adapter 'nope' .*bertd get adapters"
    with objects.Objects(path) as store, pytest.raises(errors.NotFound, match=expected):
        getattr(store, verb)("Adapter", "nope")


def test_a_deleted_object_begins_anew(path: pathlib.Path) -> None:
    """Delete forgets the object and its generations."""
    with objects.Objects(path) as store:
        store.apply_many([wanted()])
        store.apply_many([wanted(spec={})])
        store.delete("Model", "english")
        assert store.apply_many([wanted()])[0].generation == 1


@pytest.mark.parametrize(("stored", "expected"), [(0, 1), (1, 0), (1, 2)])
def test_a_stale_apply_is_refused(path: pathlib.Path, stored: int, expected: int) -> None:
    """An apply that expects another generation changes nothing at all (checklist 20)."""
    with objects.Objects(path) as store:
        store.apply_many([wanted()] * stored)
        stale = wanted(spec={"maxLength": 9}, expected_generation=expected)
        with pytest.raises(errors.Conflict, match=f"has generation {stored}, not {expected}"):
            store.apply_many([wanted("other"), stale])
        assert [one.spec for one in store.list("Model")] == [{"maxLength": 1}] * stored


def test_an_expected_generation_that_holds_applies(path: pathlib.Path) -> None:
    """Zero stands for an object that must not exist yet."""
    with objects.Objects(path) as store:
        assert store.apply_many([wanted(expected_generation=0)])[0].action == "created"
        changed = wanted(spec={}, expected_generation=1)
        assert store.apply_many([changed])[0].generation == 2


def test_a_dry_run_changes_nothing(path: pathlib.Path) -> None:
    """A dry run says what an apply would do, and leaves no trace (checklist 32)."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("a")])
        before = path.read_bytes(), store.list("Model")
        both = [wanted("a", spec={}), wanted("b")]
        assert done(store.apply_many(both, dry_run=True)) == [
            ("model/a configured", 2),
            ("model/b created", 1),
        ]
        assert (path.read_bytes(), store.list("Model")) == before
    with objects.Objects(path) as store:
        assert [one.name for one in store.list("Model")] == ["a"]


def test_an_apply_is_all_or_nothing(path: pathlib.Path) -> None:
    """When one object cannot be stored, none is."""
    with objects.Objects(path) as store:
        with pytest.raises(TypeError):
            store.apply_many([wanted("a"), wanted("b", spec={"x": object()})])
        assert store.list("Model") == ()
        assert store.apply_many([wanted("a")])[0].action == "created"


def test_threads_may_share_a_store(path: pathlib.Path) -> None:
    """Concurrent applies are ordered; none is lost and none fails."""
    with objects.Objects(path) as store, concurrent.futures.ThreadPoolExecutor(8) as threads:
        specs = [wanted(spec={"n": number}) for number in range(40)]
        applied = list(threads.map(lambda one: store.apply_many([one])[0], specs))
        assert sorted(one.generation for one in applied) == list(range(1, 41))


def damage(path: pathlib.Path, statement: str) -> None:
    """Changes the database behind the store's back."""
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE objects SET spec = '{}' WHERE name = 'b'", "the stored Model 'b' is not what"),
        ("UPDATE objects SET labels = '{\"a\":1}' WHERE name = 'a'", "the stored Model 'a'"),
        ("UPDATE objects SET generation = 7 WHERE name = 'a'", "the stored Model 'a'"),
        ("UPDATE objects SET name = 'c' WHERE name = 'b'", "the stored Model 'c'"),
        ("UPDATE objects SET sha256 = 'x' WHERE name = 'a'", "the stored Model 'a'"),
        ("DELETE FROM objects WHERE name = 'a'", "objects were lost or added"),
        ("DELETE FROM root", "objects were lost or added"),
        ("UPDATE root SET sha256 = 'x'", "objects were lost or added"),
        ("INSERT INTO root VALUES ('x')", "objects were lost or added"),
        ("PRAGMA user_version = 1", "objects were lost or added"),
        ("PRAGMA user_version = 0", "objects were lost or added"),
    ],
)
def test_any_damage_is_noticed(path: pathlib.Path, statement: str, what: str) -> None:
    """A changed, lost or added row is reported at the next start, by name (checklist 80)."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("a"), wanted("b")])
    damage(path, statement)
    with pytest.raises(errors.BadArtifact, match=what) as raised:
        objects.Objects(path)
    assert raised.value.reason == "StateCorrupt"
    assert str(path) in str(raised.value)


def test_a_damaged_root_is_noticed_by_the_next_change(path: pathlib.Path) -> None:
    """Without the sum of all digests nothing is written on top; what is stored can be read."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("a")])
        for statement in ("UPDATE root SET sha256 = 'x'", "DELETE FROM root"):
            damage(path, statement)
            with pytest.raises(errors.BadArtifact, match="objects were lost or added"):
                store.apply_many([wanted("b")])
        assert [one.name for one in store.list("Model")] == ["a"]


def test_a_damaged_object_can_be_deleted(path: pathlib.Path) -> None:
    """What is not what was written can still be forgotten, and the rest starts again."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("a"), wanted("b")])
        damage(path, "UPDATE objects SET spec = '{}' WHERE name = 'b'")
        store.delete("Model", "b")
    with objects.Objects(path) as store:
        assert [one.name for one in store.list("Model")] == ["a"]


def test_a_broken_index_is_noticed(path: pathlib.Path) -> None:
    """An index that lost a row would hide an adapter; the next start says so."""
    with objects.Objects(path) as store:
        store.apply_many([adapter("a"), adapter("b")])
    clean = path.read_bytes()
    place = clean.rindex(b"englisha")  # in the index; in the table kind and name are neighbours
    path.write_bytes(clean[:place] + b"englishz" + clean[place + 8 :])
    with pytest.raises(errors.BadArtifact, match="index") as raised:
        objects.Objects(path)
    assert raised.value.reason == "StateCorrupt"


FORMAT_1 = """
CREATE TABLE objects (
  kind TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL,
  labels TEXT NOT NULL, spec TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE root (sha256 TEXT NOT NULL) STRICT;
PRAGMA user_version = 1;
"""


def write_format_1(path: pathlib.Path, names: Sequence[str]) -> None:
    """A store as bertd 0.1 left it."""
    rows = []
    for name in sorted(names):
        content = ["Adapter", name, 3, '{"team":"x"}', '{"model":"english"}']
        rows.append((*content, sha256(content)))
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(FORMAT_1)
        database.executemany("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?)", rows)
        database.execute("INSERT INTO root VALUES (?)", (sha256([row[-1:] for row in rows]),))
        database.commit()


def sha256(value: Any) -> str:
    """Of JSON, as the store writes it."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def test_the_older_format_is_read_and_renewed(path: pathlib.Path) -> None:
    """What an earlier bertd stored is all there, checked by its own rule, and then by ours."""
    write_format_1(path, ["a", "b"])
    expected = {"labels": {"team": "x"}, "spec": {"model": "english"}, "generation": 3}
    for _ in range(2):
        with objects.Objects(path) as store:
            assert list(store.of_model("english")) == [
                objects.Stored(kind="Adapter", name=name, **expected) for name in ("a", "b")
            ]


def test_an_older_format_that_lost_a_row_is_refused_as_it_is(path: pathlib.Path) -> None:
    """Damage does not become the truth by being converted."""
    write_format_1(path, ["a", "b"])
    damage(path, "DELETE FROM objects WHERE name = 'a'")
    for _ in range(2):
        with pytest.raises(errors.BadArtifact, match="objects were lost or added"):
            objects.Objects(path)


def test_a_first_start_that_was_killed_is_started_again(path: pathlib.Path) -> None:
    """Tables without anything in them are an empty store, whichever were made."""
    tables = FORMAT_1.split(";")
    for made in (tables[:1], tables[:2]):
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(";".join(made))
        with objects.Objects(path) as store:
            store.apply_many([wanted()])


def test_damage_while_running_is_noticed(path: pathlib.Path) -> None:
    """A row that changes under a running daemon is refused when it is read; others still work."""
    with objects.Objects(path) as store:
        store.apply_many([wanted("a"), wanted("b")])
        damage(path, "UPDATE objects SET spec = '{}' WHERE name = 'b'")
        with pytest.raises(errors.BadArtifact, match="the stored Model 'b'"):
            store.get("Model", "b")
        with pytest.raises(errors.BadArtifact, match="the stored Model 'b'"):
            store.list("Model")
        with pytest.raises(errors.BadArtifact, match="the stored Model 'b'"):
            store.apply_many([wanted("c"), wanted("b")])
        assert store.get("Model", "a").generation == 1
        with pytest.raises(errors.NotFound):
            store.get("Model", "c")


def test_every_flipped_byte_of_content_is_noticed(path: pathlib.Path) -> None:
    """Wherever a byte of the file flips, the store reports it or reads exactly the same."""
    with objects.Objects(path) as store:
        store.apply_many([wanted(name, labels={"team": "search"}) for name in ("a", "b")])
        expected = store.list("Model")
    clean = path.read_bytes()
    for at in range(0, len(clean), 131):
        path.write_bytes(clean[:at] + bytes([clean[at] ^ 0x04]) + clean[at + 1 :])
        try:
            with objects.Objects(path) as store:
                found = store.list("Model")
        except errors.Error:
            continue
        assert found == expected, at


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 40])
def test_another_file_is_refused(path: pathlib.Path, content: bytes) -> None:
    """A file that is no SQLite database is corrupt state, and is left as it is."""
    path.write_bytes(content)
    with pytest.raises(errors.BadArtifact) as raised:
        objects.Objects(path)
    assert raised.value.reason == "StateCorrupt"
    assert path.read_bytes() == content


def test_a_newer_format_is_refused(path: pathlib.Path) -> None:
    """A store that a later bertd wrote is not touched."""
    with objects.Objects(path):
        pass
    damage(path, f"PRAGMA user_version = {objects.FORMAT + 1}")
    with pytest.raises(errors.Conflict, match="has format 3, this version of bertd reads up to 2"):
        objects.Objects(path)


def test_a_missing_directory_is_temporary(tmp_path: pathlib.Path) -> None:
    """A place that cannot be opened may heal: the error says so and names the file."""
    with pytest.raises(errors.Temporary, match="absent") as raised:
        objects.Objects(tmp_path / "absent" / "objects.sqlite")
    assert raised.value.reason == "StateUnavailable"


def test_a_full_disk_leaves_the_old_state(path: pathlib.Path) -> None:
    """Without space an apply stores nothing and may be tried again (checklist 79)."""
    with objects.Objects(path) as store:
        store.apply_many([wanted()])
        (pages,) = store._database.execute("PRAGMA page_count").fetchone()
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        big = wanted(spec={"x": "y" * 1_000_000})
        with pytest.raises(errors.Temporary, match="full"):
            store.apply_many([wanted("other"), big])
        assert [one.name for one in store.list("Model")] == ["english"]
        store._database.execute("PRAGMA max_page_count = 1000000")
        assert store.apply_many([big])[0].generation == 2


def test_sudden_death_leaves_whole_applies(path: pathlib.Path) -> None:
    """After SIGKILL in the middle of applying, every apply is there whole or not at all."""
    program = textwrap.dedent("""\
        import itertools, pathlib, sys
        from bertd.store import objects
        store = objects.Objects(pathlib.Path(sys.argv[1]))
        for number in itertools.count():
            store.apply_many([
                objects.Wanted(kind="Model", name=name, labels={}, spec={"number": number})
                for name in ("a", "b", "c")
            ])
            print(number, flush=True)
    """)
    for kill_after in (1, 4, 9):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            told = [int(line) for line in itertools.islice(process.stdout, kill_after)]
            os.kill(process.pid, signal.SIGKILL)
        with objects.Objects(path) as store:
            numbers = {one.spec["number"] for one in store.list("Model")}
        assert len(numbers) == 1
        assert numbers.pop() >= told[-1]


SPECS = st.dictionaries(st.sampled_from("xy"), st.integers(0, 2), max_size=2)
NAMES = st.sampled_from("abc")


class AgainstDictionary(RuleBasedStateMachine):
    """The store does what a dictionary would do, with restarts in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name) / "objects.sqlite"
        self.store = objects.Objects(self.path)
        self.expected: dict[str, tuple[dict[str, int], dict[str, str], int]] = {}

    def teardown(self) -> None:
        """Close after each sequence."""
        self.store.close()
        self.folder.cleanup()

    @rule(name=NAMES, spec=SPECS, labels=st.sampled_from([{}, {"team": "x"}]))
    def apply(self, name: str, spec: dict[str, int], labels: dict[str, str]) -> None:
        """Only another spec moves the generation."""
        old_spec, _, generation = self.expected.get(name, (None, {}, 0))
        self.store.apply_many([wanted(name, spec=spec, labels=labels)])
        self.expected[name] = (spec, labels, generation + (spec != old_spec))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        """What is deleted is gone."""
        try:
            self.store.delete("Model", name)
        except errors.NotFound:
            assert name not in self.expected
        else:
            del self.expected[name]

    @rule()
    def restart(self) -> None:
        """A restart changes nothing."""
        self.store.close()
        self.store = objects.Objects(self.path)

    @invariant()
    def same(self) -> None:
        """Both hold the same."""
        found = {
            one.name: (dict(one.spec), dict(one.labels), one.generation)
            for one in self.store.every("Model")
        }
        assert found == self.expected


def test_any_sequence_behaves_like_a_dictionary() -> None:
    """No sequence of applies, deletes and restarts loses or invents anything (checklist 12)."""
    run_state_machine_as_test(
        AgainstDictionary,
        settings=settings(max_examples=12, stateful_step_count=15, deadline=None),
    )
