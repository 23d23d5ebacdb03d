"""An operator's calls reach whoever holds the objects, and come back whole."""

import asyncio
import contextlib
import json

import grpc.aio
import pytest
import structlog

from bertd import errors
from bertd.manifest import views
from bertd.reconcile import showing, statuses
from bertd.serving import admin
from bertd.store import objects
from bertd.v1 import admin_pb2 as pb
from bertd.v1 import admin_pb2_grpc
from tests.reconcile import observing
from tests.serving import fakes, watched


@pytest.fixture(autouse=True)
def _control(monkeypatch):
    """Objects that can be watched."""
    monkeypatch.setattr(fakes, "Control", watched.Control)


@contextlib.asynccontextmanager
async def serving(socket: str):
    """An Admin stub, the objects behind it, and the daemon."""
    async with (
        fakes.running({}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):
        yield admin_pb2_grpc.AdminStub(channel), daemon.control, daemon


async def test_apply_hands_everything_over(socket):
    """Text, file name, directory and dry run arrive; actions and warnings come back."""
    request = pb.ApplyRequest(manifest="a b", file_name="f.yaml", base_dir="/d", dry_run=True)
    async with serving(socket) as (stub, control, daemon):
        reply = await stub.Apply(request)
        assert daemon.count(model="", adapter="", method="Apply", code="OK") == 1
    assert control.asked == [("apply", "a b", "f.yaml", "/d", True)]
    got = [(each.ref.kind, each.ref.name, each.action, each.generation) for each in reply.objects]
    assert got == [("Model", "a", "created", 1), ("Model", "b", "created", 1)]
    assert list(reply.warnings) == ["careful"]
    assert control.objects == {}


async def test_a_broken_manifest_is_invalid(socket):
    """The positions that the manifest room found are the status text."""
    async with serving(socket) as (stub, _, _):
        call = stub.Apply(pb.ApplyRequest(manifest="broken", file_name="f.yaml"))
        error = await fakes.refusal(call)
    assert error.code().name == "INVALID_ARGUMENT"
    assert error.details() == "f.yaml:1:1: spec: must be whole"


async def test_diff_tells_the_plan(socket):
    """The difference and the planned operations come back."""
    async with serving(socket) as (stub, control, _):
        reply = await stub.Diff(pb.DiffRequest(manifest="a", file_name="f", base_dir="/d"))
    assert control.asked == [("diff", "a", "f", "/d")]
    (each,) = reply.objects
    assert (each.ref.name, each.action, each.unified, list(each.plan)) == (
        "a",
        "created",
        "+a\n",
        ["start"],
    )


async def test_get_shows_the_object_with_its_status(socket):
    """Spec, labels, generation, conditions and details are all there."""
    async with serving(socket) as (stub, control, _):
        control.objects["Model", "a"] = fakes.model_view("a")
        ref = pb.ObjectRef(kind="Model", name="a")
        got = (await stub.Get(pb.GetRequest(ref=ref))).object
    assert (got.ref, dict(got.labels), got.generation) == (ref, {"team": "search"}, 1)
    assert json.loads(got.spec_json) == {"base": {"source": "/m"}, "maxLength": None}
    assert (got.status.revision, got.status.digest) == ("r1", "d")
    assert json.loads(got.status.details_json) == {"lanes": 2}
    (ready,) = got.status.conditions
    assert (ready.type, ready.status, ready.reason) == ("Ready", "True", "Serving")


async def test_list_is_read_page_by_page(socket):
    """Every object comes once, in order of names, however small the pages."""
    async with serving(socket) as (stub, control, _):
        for name in "dbace":
            control.objects["Model", name] = fakes.model_view(name)
        names, token = [], ""
        while True:
            page = await stub.List(pb.ListRequest(kind="Model", page_size=2, page_token=token))
            names += [each.ref.name for each in page.objects]
            token = page.next_page_token
            if not token:
                break
    assert names == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("asked", "given"), [(0, 1000), (7, 7), (5000, 1000)])
async def test_pages_are_bounded(socket, asked, given):
    """Nobody gets more than 1,000 objects at once."""
    async with serving(socket) as (stub, control, _):
        await stub.List(pb.ListRequest(kind="Adapter", page_size=asked))
    assert control.asked == [("list", "Adapter", given, "")]
    assert admin.LONGEST_PAGE == 1000


async def test_delete_forgets(socket):
    """What was deleted is gone, and deleting it again says so."""
    request = pb.DeleteRequest(ref=pb.ObjectRef(kind="Model", name="a"))
    async with serving(socket) as (stub, control, _):
        control.objects["Model", "a"] = fakes.model_view("a")
        await stub.Delete(request)
        error = await fakes.refusal(stub.Delete(request))
    assert (control.objects, error.code().name) == ({}, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Get", pb.GetRequest()),
        ("Get", pb.GetRequest(ref=pb.ObjectRef(kind="Model"))),
        ("Get", pb.GetRequest(ref=pb.ObjectRef(kind="model", name="a"))),
        ("Get", pb.GetRequest(ref=pb.ObjectRef(kind="Model", name="x" * 300))),
        ("Delete", pb.DeleteRequest(ref=pb.ObjectRef(kind="Pod", name="a"))),
        ("List", pb.ListRequest()),
        ("List", pb.ListRequest(kind="Models")),
        ("List", pb.ListRequest(kind="Model", page_size=-1)),
        ("List", pb.ListRequest(kind="Model", model="english")),
    ],
)
async def test_a_bad_reference_is_refused(socket, method, request_):
    """Kinds and names are checked before anybody looks for them."""
    async with serving(socket) as (stub, control, _):
        error = await fakes.refusal(getattr(stub, method)(request_))
    assert error.code().name == "INVALID_ARGUMENT"
    assert "must" in error.details()
    assert control.asked == []


async def test_the_adapters_of_one_model_are_a_list(socket):
    """The Model's name is handed over with the rest."""
    async with serving(socket) as (stub, control, _):
        request = pb.ListRequest(kind="Adapter", model="english", page_size=3, page_token="b")
        reply = await stub.List(request)
    assert control.asked == [("list of model", "english", 3, "b")]
    assert [each.ref.name for each in reply.objects] == ["english/a"]


async def test_a_page_of_large_objects_is_shorter(socket, monkeypatch):
    """What does not fit one message comes with the next page; nothing is lost."""
    monkeypatch.setattr(admin, "LONGEST_PAGE_BYTES", 2_500)
    async with serving(socket) as (stub, control, _):
        for name in "abcde":
            control.objects["Adapter", name] = watched.view(name, x="y" * 1_000)
        control.objects["Adapter", "c"] = watched.view("c", x="y" * 10_000)
        pages, token = [], ""
        while True:
            page = await stub.List(pb.ListRequest(kind="Adapter", page_token=token))
            pages.append([each.ref.name for each in page.objects])
            token = page.next_page_token
            if not token:
                break
    assert pages == [["a", "b"], ["c"], ["d", "e"]]


async def test_versions_are_shown(socket):
    """Digest and time of each."""
    async with serving(socket) as (stub, control, _):
        control.objects["Adapter", "a"] = watched.view("a")
        ref = pb.ObjectRef(kind="Adapter", name="a")
        got = (await stub.Get(pb.GetRequest(ref=ref))).object.status.versions
    assert [(each.digest, each.since) for each in got] == [("sha256:d2", "2026-01-02T00:00:00Z")]


async def next_of(call) -> tuple[str, list[str]]:
    """The next message of a watch."""
    message = await asyncio.wait_for(call.read(), 5)
    return pb.ChangeType.Name(message.type), [each.ref.name for each in message.objects]


async def test_a_watch_tells_changes_as_they_come(socket):
    """Every type has its word, and the request arrives whole."""
    async with serving(socket) as (stub, control, _):
        control.told = [watched.added("a", "b"), views.Change(type="synced")]
        call = stub.Watch(pb.WatchRequest(kind="Adapter", name="a", page_size=7))
        assert await next_of(call) == ("CHANGE_TYPE_ADDED", ["a", "b"])
        assert await next_of(call) == ("CHANGE_TYPE_SYNCED", [])
        for type_ in ("modified", "deleted"):
            await control.tell(views.Change(type=type_, objects=(watched.view("a"),)))
            assert await next_of(call) == (f"CHANGE_TYPE_{type_.upper()}", ["a"])
        await control.tell(views.Change(type="restarted"))
        assert await next_of(call) == ("CHANGE_TYPE_RESTARTED", [])
        call.cancel()
    assert control.asked == [("watch", "Adapter", "a", 7)]


async def test_a_watch_of_everything_needs_no_kind(socket):
    """And its pages are bounded."""
    async with serving(socket) as (stub, control, _):
        control.told = [views.Change(type="synced")]
        call = stub.Watch(pb.WatchRequest())
        assert await next_of(call) == ("CHANGE_TYPE_SYNCED", [])
        call.cancel()
    assert control.asked == [("watch", None, "", 1000)]


async def test_messages_of_a_watch_stay_small(socket, monkeypatch):
    """A change of many large objects is several messages; one object is never cut."""
    monkeypatch.setattr(admin, "LONGEST_CHANGE_BYTES", 2_500)
    sizes = {"a": 1_000, "b": 1_000, "c": 1_000, "d": 10_000, "e": 10}
    objects = tuple(watched.view(name, x="y" * size) for name, size in sizes.items())
    async with serving(socket) as (stub, control, _):
        control.told = [views.Change(type="added", objects=objects)]
        call = stub.Watch(pb.WatchRequest(kind="Adapter"))
        got = [(await next_of(call))[1] for _ in range(4)]
        call.cancel()
    assert got == [["a", "b"], ["c"], ["d"], ["e"]]


def test_messages_of_a_watch_stay_below_one_mebibyte():
    """Field names and the type included."""
    assert admin.LONGEST_CHANGE_BYTES < 1024 * 1024


async def test_one_watcher_too_many_is_told_when_to_come_back(socket):
    """UNAVAILABLE with a pushback, as for every refusal of a busy daemon."""
    async with serving(socket) as (stub, control, _):
        control.refusal = errors.Overloaded("too many watch", retry_after_s=1.0)
        error = await fakes.refusal(stub.Watch(pb.WatchRequest()).read())
    assert error.code().name == "UNAVAILABLE"
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


@pytest.mark.parametrize(
    "request_",
    [
        pb.WatchRequest(kind="Pod"),
        pb.WatchRequest(name="a"),
        pb.WatchRequest(kind="Model", name="x" * 300),
        pb.WatchRequest(page_size=-1),
    ],
)
async def test_a_bad_watch_is_refused(socket, request_):
    """Before anybody is watched."""
    async with serving(socket) as (stub, control, _):
        error = await fakes.refusal(stub.Watch(request_).read())
    assert error.code().name == "INVALID_ARGUMENT"
    assert control.asked == []


async def test_a_caller_that_leaves_is_forgotten(socket):
    """The watch behind it ends."""
    async with serving(socket) as (stub, control, _):
        control.told = [views.Change(type="synced")]
        call = stub.Watch(pb.WatchRequest())
        await next_of(call)
        assert control.watching == 1
        call.cancel()
        async with asyncio.timeout(5):
            while control.watching:
                await asyncio.sleep(0.01)


async def test_a_caller_that_leaves_while_it_is_told_is_no_failure(socket, caplog):
    """Nobody reads the message that is under way: the watch ends, and no log calls it an error."""
    large = tuple(watched.view(f"m/{at}", x="y" * 100_000) for at in range(9))
    with structlog.testing.capture_logs() as logged:
        async with serving(socket) as (stub, control, _):
            control.told = [views.Change(type="added", objects=large)] * 100
            call = stub.Watch(pb.WatchRequest())
            assert (await call.read()).objects
            before = -1
            while before != control.telling:  # until the writer waits for the reader
                before = control.telling
                await asyncio.sleep(0.1)
            assert before < 100
            call.cancel()
            async with asyncio.timeout(5):
                while control.watching:
                    await asyncio.sleep(0.01)
    assert logged == []
    assert caplog.records == []


async def test_a_daemon_that_stops_ends_its_watches(socket):
    """In order: the stream ends with OK, after what was told before."""
    async with serving(socket) as (stub, control, _):
        control.told = [views.Change(type="synced")]
        call = stub.Watch(pb.WatchRequest())
        await next_of(call)
        admin.Admin(control).close()
        assert await asyncio.wait_for(call.read(), 5) is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK


async def test_a_slow_reader_of_thousands_ends_up_with_what_is_true(socket, tmp_path):
    """Whatever was coalesced on the way, over a real store and a real connection (issue 3)."""
    with objects.Objects(tmp_path / "objects.sqlite") as store:
        shown = statuses.Statuses()
        shows = showing.Showing(store, shown)
        many = {f"a{n:04}": observing.found(f"a{n:04}", "d0") for n in range(2_500)}
        await observing.settle(shown, many)
        async with serving(socket) as (stub, control, _):
            control.watch = shows.watch
            seen: dict[str, str] = {}
            call = stub.Watch(pb.WatchRequest(kind="Adapter", page_size=100))
            for turn in range(1, 4):
                many = {name: observing.found(name, f"d{turn}") for name in list(many)[100:]}
                await observing.settle(shown, many, f"t{turn}")
            expected = {f"m/{name}": "sha256:d3" for name in many}
            async with asyncio.timeout(20):
                while seen != expected:
                    message = await call.read()
                    assert message.ByteSize() < 1024 * 1024
                    for each in message.objects:
                        if message.type == pb.CHANGE_TYPE_DELETED:
                            seen.pop(each.ref.name, None)  # gone before it was told
                        else:
                            seen[each.ref.name] = each.status.digest
            call.cancel()
