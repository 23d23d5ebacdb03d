"""What operators are shown of thousands of adapters, and what watchers hear of them."""

import asyncio
import contextlib

import pytest

from bertd import errors
from bertd.reconcile import showing, statuses, watching
from bertd.store import history, objects
from tests.reconcile import observing

BROKEN = errors.BadArtifact("the file is cut off", reason="Truncated")


def stored(name: str, model: str = "m", generation: int = 5) -> objects.Stored:
    """An Adapter object."""
    spec = {"model": model, "source": f"/{name}"}
    return objects.Stored(kind="Adapter", name=name, labels={}, spec=spec, generation=generation)


def wanted(name: str, kind: str = "Adapter", model: str = "m") -> objects.Wanted:
    """An object to store."""
    spec = {"model": model, "source": f"/{name}"} if kind == "Adapter" else {}
    return objects.Wanted(kind=kind, name=name, labels={}, spec=spec)


def ready(view) -> tuple[str, str, str]:
    """Status, reason and since of Ready."""
    (found,) = [each for each in view.status.conditions if each.type == "Ready"]
    return found.status, found.reason, found.last_transition_time


def heard(watcher: watching.Watcher) -> dict[str, bool]:
    """What a watcher is told now, by name."""
    return {name: existed for (_, name), existed in watcher.take(1000).items()}


@pytest.fixture(name="shown")
def _shown() -> statuses.Statuses:
    return statuses.Statuses()


@pytest.fixture(name="watcher")
def _watcher(shown):
    with shown.watchers.watching("Adapter", "") as watcher:
        yield watcher


async def test_an_adapter_inside_a_model_is_shown_by_both_names(shown):
    """Digest, facts, source and conditions come from what was found."""
    await observing.settle(shown, {"a": observing.found("a", "d1"), "b": BROKEN}, generation=3)
    view = shown.inline("m/a")
    assert (view.kind, view.name, view.generation) == ("Adapter", "m/a", 3)
    assert view.spec == {"model": "m", "source": "/a"}
    assert (view.status.digest, view.status.revision) == ("sha256:d1", "m-1")
    assert view.status.details == {
        "labelNames": ["no", "yes"],
        "problem": "single_label",
        "fileBytes": 7,
    }
    assert ready(view) == ("True", "Serving", "t1")
    assert ready(shown.inline("m/b")) == ("False", "Truncated", "t1")
    assert shown.inline("m/b").status.digest == ""
    assert [shown.inline(name) for name in ("m/c", "n/a", "a", "m/")] == [None] * 4


async def test_an_adapter_object_is_shown_with_its_own_generation(shown):
    """Its status is that of the Model that it names."""
    await observing.settle(shown, {"a": observing.found("a", "d1")}, own=["a"])
    status = shown.view(stored("a")).status
    assert (status.observed_generation, status.digest) == (5, "sha256:d1")
    assert shown.view(stored("a", model="other")).status == statuses.NOT_YET
    assert shown.inline("m/a") is None


async def test_a_condition_is_as_old_as_its_status(shown):
    """Another reason or digest moves no time; another status does (checklist 14)."""
    await observing.settle(shown, {"a": observing.found("a", "d1")}, "t1")
    await observing.settle(shown, {"a": observing.found("a", "d2")}, "t2")
    assert ready(shown.inline("m/a")) == ("True", "Serving", "t1")
    await observing.settle(shown, {"a": BROKEN}, "t3")
    await observing.settle(shown, {"a": errors.BadArtifact("gone", reason="NotThere")}, "t4")
    assert ready(shown.inline("m/a")) == ("False", "NotThere", "t3")


async def test_what_is_not_served_yet_says_so(shown):
    """An adapter whose file is new waits for the worker, and one of a dead worker too."""
    old, new = observing.found("a", "d1"), observing.found("a", "d2")
    await observing.settle(shown, {"a": new}, live=observing.serving({"a": old}))
    assert ready(shown.inline("m/a"))[:2] == ("False", "ModelNotReady")
    down = observing.serving({"a": new})
    down.is_up = False
    await observing.settle(shown, {"a": new}, live=down)
    assert ready(shown.inline("m/a"))[:2] == ("False", "ModelNotReady")
    refused = observing.serving({"a": new})
    refused.failures = {"a": BROKEN}
    await observing.settle(shown, {"a": new}, live=refused)
    assert ready(shown.inline("m/a"))[:2] == ("False", "Truncated")


async def test_a_look_at_some_adapters_says_nothing_of_others(shown, watcher):
    """Added, changed and removed names alone are told; the Model counts all (issue 3)."""
    many = {f"a{n:04}": observing.found(f"a{n:04}", f"d{n}") for n in range(1_000)}
    await observing.settle(shown, many)
    assert len(heard(watcher)) == 1_000
    changed = {"a0007": observing.found("a0007", "new"), "b": observing.found("b", "d")}
    live = observing.serving((many | changed).copy())
    live.serving.adapters.pop("a0008")
    only = ["a0007", "a0008", "b"]
    await observing.settle(shown, changed, "t2", only=only, live=live)
    assert heard(watcher) == {"m/a0007": True, "m/a0008": True, "m/b": False}
    assert shown.inline("m/a0008") is None
    assert shown.inline("m/a0007").status.digest == "sha256:new"
    assert shown.inline("m/a0009").status.digest == "sha256:d9"
    model = objects.Stored(kind="Model", name="m", labels={}, spec={}, generation=1)
    assert shown.view(model).status.details == {"adapters": 1_000}


async def test_what_did_not_change_is_neither_kept_twice_nor_told(shown, watcher):
    """A second look with the same outcome keeps the very records of the first."""
    many = {f"a{n}": observing.found(f"a{n}", f"d{n}") for n in range(600)}
    await observing.settle(shown, many, "t1")
    heard(watcher)
    before = dict(shown._adapters["m"].inline)
    await observing.settle(shown, many, "t2")
    assert heard(watcher) == {}
    assert all(shown._adapters["m"].inline[name] is before[name] for name in before)


async def test_thousands_of_adapters_share_what_is_equal(shown):
    """One tuple of conditions, however many adapters there are."""
    many = {f"a{n}": observing.found(f"a{n}", f"d{n}") for n in range(600)}
    await observing.settle(shown, many)
    records = shown._adapters["m"].inline.values()
    assert len({id(each.observations) for each in records}) == 1
    assert len({id(each.conditions) for each in records}) == 1


async def test_a_new_revision_is_news_of_every_adapter(shown, watcher):
    """It answers for each of them."""
    many = {f"a{n}": observing.found(f"a{n}", f"d{n}") for n in range(3)}
    await observing.settle(shown, many)
    heard(watcher)
    await observing.settle(shown, many, "t2", live=observing.serving(many, revision="m-2"))
    assert heard(watcher) == {f"m/a{n}": True for n in range(3)}


async def test_other_tasks_run_between_adapters(shown):
    """Thousands of adapters do not keep callers waiting."""
    many = {f"a{n}": observing.found(f"a{n}", "d") for n in range(10 * statuses.BETWEEN_TURNS)}
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await observing.settle(shown, many)
    counting.cancel()
    assert turns >= 10


async def test_an_object_deleted_meanwhile_stays_deleted(shown, watcher):
    """A reconcile that read it before says nothing of it afterwards."""
    outcome = observing.desired({"a": observing.found("a", "d")}, own=["a"])
    shown.begin(outcome.declared, "t1")
    shown.forget("Adapter", "a")
    shown.forget("Model", "m")
    await shown.settle(outcome, observing.serving({}), "t2")
    assert shown.view(stored("a")).status == statuses.NOT_YET
    model = objects.Stored(kind="Model", name="m", labels={}, spec={}, generation=1)
    assert shown.view(model).status == statuses.NOT_YET
    assert heard(watcher) == {"a": True}


async def test_an_adapter_that_moved_is_dropped_by_the_model_that_it_left(shown):
    """The one that it names now tells of it."""
    file = observing.found("a", "d")
    await observing.settle(shown, {"a": file}, own=["a"])
    await observing.settle(shown, {}, "t2", model="m")
    await observing.settle(shown, {"a": file}, "t2", own=["a"], model="n")
    assert shown.view(stored("a", "m")).status == statuses.NOT_YET
    assert ready(shown.view(stored("a", "n"))) == ("True", "Serving", "t2")


async def test_a_model_that_goes_takes_what_is_inside_it_along(shown, watcher):
    """Adapters of their own wait for it, and say so."""
    own, inside = observing.found("own", "d1"), observing.found("inside", "d2")
    await observing.settle(shown, {"own": own, "inside": inside}, own=["own"])
    heard(watcher)
    shown.remove("m", [stored("own"), stored("new")], "t2")
    assert heard(watcher) == {"m/inside": True, "own": True, "new": True}
    assert shown.inline("m/inside") is None
    assert ready(shown.view(stored("own"))) == ("False", "ModelNotFound", "t2")
    shown.remove("m", [], "t3")
    assert shown.view(stored("own")).status == statuses.NOT_YET


async def test_names_inside_models_come_in_order(shown):
    """Across Models whose names begin alike, from any name on."""
    for model in ("a", "a-b", "a0", "b"):
        adapters = {name: observing.found(name, "d") for name in ("z", "x", "y")}
        await observing.settle(shown, adapters, model=model)
    names = list(shown.inline_after(""))
    assert names == sorted(f"{m}/{n}" for m in ("a", "a-b", "a0", "b") for n in "xyz")
    for name in ("a/x", "a", "a/", "a/xx", "a-b/z", "b/z", "zzz", "a-"):
        assert list(shown.inline_after(name)) == [each for each in names if each > name]
    assert list(shown.inline_after("a/y", "a")) == ["a/z"]
    assert list(shown.inline_after("", "nobody")) == []
    await observing.settle(shown, {"w": observing.found("w", "d")}, model="b")
    assert list(shown.inline_after("b")) == ["b/w"]


# Versions.


@pytest.fixture(name="log")
def _log(tmp_path):
    with history.History(tmp_path / "history.sqlite") as log:
        yield log


async def test_a_version_is_what_was_served(log):
    """Each digest from the time on which it answered; what never served is none (issue 3)."""
    shown = statuses.Statuses(log)
    first, second = observing.found("a", "d1"), observing.found("a", "d2")
    await observing.settle(shown, {"a": first, "b": observing.found("b", "x")}, "t1", own=["b"])
    await observing.settle(shown, {"a": first}, "t2")
    await observing.settle(shown, {"a": second}, "t3", live=observing.serving({"a": first}))
    await observing.settle(shown, {"a": BROKEN}, "t4")
    await observing.settle(shown, {"a": second}, "t5")
    got = [(each.digest, each.since) for each in shown.versions("m", "a")]
    assert got == [("sha256:d2", "t5"), ("sha256:d1", "t1")]
    assert [each.digest for each in shown.versions("m", "b")] == ["sha256:x"]
    assert shown.versions("m", "c") == ()


async def test_without_a_history_there_are_no_versions(shown):
    """Nothing fails for it."""
    await observing.settle(shown, {"a": observing.found("a", "d1")})
    assert shown.versions("m", "a") == ()


# Pages and watches, over a store.


@pytest.fixture(name="store")
def _store(tmp_path):
    with objects.Objects(tmp_path / "objects.sqlite") as store:
        yield store


async def listed(pages, limit: int) -> list[list[str]]:
    """Names, page by page."""
    found, after = [], ""
    while True:
        page = await pages(limit, after)
        found.append([each.name for each in page.objects])
        after = page.next_after
        if not after:
            return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_pages_merge_objects_and_inline_adapters(shown, store, limit):
    """Every name comes once, in order, in pages of the size that was asked for."""
    store.apply_many([wanted(name) for name in ("a", "m", "z")] + [wanted("m", "Model")])
    inside = {name: observing.found(name, "d") for name in ("b", "c")}
    await observing.settle(shown, inside)
    shows = showing.Showing(store, shown)
    pages = await listed(lambda size, after: shows.list("Adapter", size, after), limit)
    names = ["a", "m", "m/b", "m/c", "z"]
    assert pages == [names[at : at + limit] for at in range(0, 5, limit)]
    assert await listed(lambda size, after: shows.list("Model", size, after), limit) == [["m"]]


async def test_the_adapters_of_one_model_are_a_list_of_their_own(shown, store):
    """Those inside it, and those that name it."""
    store.apply_many([wanted("a"), wanted("b", model="n"), wanted("z")])
    await observing.settle(shown, {"x": observing.found("x", "d")})
    await observing.settle(shown, {"y": observing.found("y", "d")}, model="n")
    shows = showing.Showing(store, shown)
    pages = await listed(lambda size, after: shows.list_of_model("m", size, after), 2)
    assert pages == [["a", "m/x"], ["z"]]
    assert await listed(lambda size, after: shows.list_of_model("o", size, after), 2) == [[]]


async def test_the_largest_page_is_followed_by_the_rest(shown, store):
    """Nothing is lost at the store's own limit."""
    names = [f"a{number:04}" for number in range(2_001)]
    store.apply_many([wanted(name) for name in names])
    shows = showing.Showing(store, shown)
    pages = await listed(lambda size, after: shows.list("Adapter", size, after), 1000)
    assert [len(page) for page in pages] == [1000, 1000, 1]
    assert [name for page in pages for name in page] == names


async def test_one_object_comes_with_its_versions(store, log):
    """Of an inline adapter and of one of its own; unknown names are not found."""
    shown = statuses.Statuses(log)
    store.apply_many([wanted("a"), wanted("m", "Model")])
    adapters = {"a": observing.found("a", "d1"), "b": observing.found("b", "d2")}
    await observing.settle(shown, adapters, own=["a"])
    shows = showing.Showing(store, shown)
    for name, digest in (("a", "sha256:d1"), ("m/b", "sha256:d2")):
        (version,) = shows.get("Adapter", name).status.versions
        assert (version.digest, version.since) == (digest, "t1")
    assert shows.get("Model", "m").status.versions == ()
    for kind, name in (("Adapter", "m/a"), ("Adapter", "c"), ("Model", "m/b")):
        with pytest.raises(errors.NotFound):
            shows.get(kind, name)


class Told:
    """A watch that is read on demand."""

    def __init__(self, shows: showing.Showing, kind=None, name: str = "", limit: int = 2) -> None:
        self._changes = shows.watch(kind, name, limit)

    async def next(self) -> tuple[str, list[str]]:
        """The next change: its type and the names."""
        change = await asyncio.wait_for(anext(self._changes), 5)
        return change.type, [each.name for each in change.objects]

    async def until(self, type_: str) -> list[tuple[str, list[str]]]:
        """All changes up to the next one of this type."""
        found = [await self.next()]
        while found[-1][0] != type_:
            found.append(await self.next())
        return found

    async def close(self) -> None:
        """Leaves."""
        await self._changes.aclose()


@contextlib.asynccontextmanager
async def told(shows: showing.Showing, *args, **options):
    """A watch that is left at the end."""
    watch = Told(shows, *args, **options)
    try:
        yield watch
    finally:
        await watch.close()


async def test_a_watch_begins_with_everything_there_is(shown, store):
    """In bounded pages, Models first, and then the word that this was all (issue 3)."""
    store.apply_many([wanted("m", "Model"), wanted("a"), wanted("b")])
    await observing.settle(shown, {"x": observing.found("x", "d")})
    async with told(showing.Showing(store, shown)) as watch:
        assert await watch.until("synced") == [
            ("added", ["m"]),
            ("added", ["a", "b"]),
            ("added", ["m/x"]),
            ("synced", []),
        ]


async def test_a_watch_tells_what_becomes_of_objects(shown, store):
    """Added, modified and deleted, of its kind alone."""
    async with told(showing.Showing(store, shown), "Adapter") as watch:
        assert await watch.next() == ("synced", [])
        store.apply_many([wanted("a"), wanted("m", "Model")])
        shown.watchers.tell("Model", "m", existed=False)
        shown.watchers.tell("Adapter", "a", existed=False)
        assert await watch.next() == ("added", ["a"])
        await observing.settle(shown, {"x": observing.found("x", "d")}, own=[])
        assert await watch.next() == ("added", ["m/x"])
        store.delete("Adapter", "a")
        shown.forget("Adapter", "a")
        assert await watch.next() == ("deleted", ["a"])
        await observing.settle(shown, {"x": observing.found("x", "d2")}, "t2")
        assert await watch.next() == ("modified", ["m/x"])
        await observing.settle(shown, {}, "t3")
        assert await watch.next() == ("deleted", ["m/x"])


async def test_a_slow_watcher_is_told_of_an_object_once(shown, store):
    """However often it changed, and with what it is now; what came and went is no news."""
    shows = showing.Showing(store, shown)
    changes = shows.watch("Adapter", "", 100)
    assert (await anext(changes)).type == "synced"
    for number in range(50):
        adapters = {"x": observing.found("x", f"d{number}")}
        await observing.settle(shown, adapters | {"y": observing.found("y", "d")}, f"t{number}")
    await observing.settle(shown, adapters, "t")
    (view,) = (change := await anext(changes)).objects
    assert (change.type, view.name, view.status.digest) == ("added", "m/x", "sha256:d49")
    await changes.aclose()


async def test_a_watch_of_one_name_hears_of_no_other(shown, store):
    """Also of one that is not there yet."""
    shows = showing.Showing(store, shown)
    async with told(shows, "Adapter", "m/x") as watch, told(shows, "Adapter", "m/y") as other:
        assert [await watch.next(), await other.next()] == [("synced", [])] * 2
        await observing.settle(shown, {name: observing.found(name, "d") for name in "xyz"})
        assert await watch.next() == ("added", ["m/x"])
        assert await other.next() == ("added", ["m/y"])
    async with told(shows, "Adapter", "m/x") as watch:
        assert await watch.until("synced") == [("added", ["m/x"]), ("synced", [])]


async def test_a_watcher_that_missed_too_much_begins_anew(shown, store, monkeypatch):
    """Its memory is bounded: it forgets what it was told and gets a new listing."""
    monkeypatch.setattr(watching, "MOST_NAMES", 3)
    async with told(showing.Showing(store, shown), "Adapter", limit=10) as watch:
        assert await watch.next() == ("synced", [])
        await observing.settle(shown, {name: observing.found(name, "d") for name in "abcdef"})
        assert await watch.until("synced") == [
            ("restarted", []),
            ("added", [f"m/{name}" for name in "abcdef"]),
            ("synced", []),
        ]
        await observing.settle(shown, {name: observing.found(name, "d") for name in "abcde"}, "t2")
        assert await watch.next() == ("deleted", ["m/f"])


async def test_watchers_are_bounded_and_leave_nothing_behind(shown, store, monkeypatch):
    """One too many is refused with the time to come back; who leaves makes room."""
    monkeypatch.setattr(watching, "MOST_WATCHERS", 2)
    shows = showing.Showing(store, shown)
    async with told(shows) as first, told(shows) as second:
        await first.next()
        await second.next()
        async with told(shows) as third:
            with pytest.raises(errors.Overloaded) as raised:
                await third.next()
            assert raised.value.retry_after_s > 0
    async with told(shows) as again:
        assert await again.next() == ("synced", [])
    assert shown.watchers._watchers == set()


async def test_a_daemon_that_stops_ends_every_watch(shown, store):
    """One that waits for news, one that is in the middle of a listing, and one that comes late."""
    shows = showing.Showing(store, shown)
    await observing.settle(shown, {name: observing.found(name, "d") for name in "abc"})
    waiting, reading = shows.watch("Model", "", 1), shows.watch("Adapter", "", 1)
    while (await anext(waiting)).type != "synced":
        pass
    await anext(reading)
    asked = asyncio.ensure_future(anext(waiting))
    await asyncio.sleep(0)
    shows.close()
    for changes in (asked, anext(reading), anext(shows.watch(None, "", 1))):
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(changes, 5)
    assert shown.watchers._watchers == set()
