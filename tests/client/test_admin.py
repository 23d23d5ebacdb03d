"""What the command line's verbs stand on."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from bertd.client import admin, failure
from bertd.manifest import views
from tests.serving import fakes, watched


@pytest.fixture(autouse=True)
def _control(monkeypatch):
    """Objects that can be watched."""
    monkeypatch.setattr(fakes, "Control", watched.Control)


async def asked(socket: str, ask, *names: str, told: Sequence[views.Change] = ()):
    """What a function gets that asks a daemon with these Models."""
    async with fakes.running({}, socket) as daemon:
        daemon.control.told = list(told)
        for name in names:
            daemon.control.objects["Model", name] = fakes.model_view(name)

        def work():
            with admin.AdminClient(daemon.admin) as client:
                return ask(client)

        return await asyncio.to_thread(work)


async def test_apply_tells_what_it_did(socket):
    """One value for each object, and the warnings."""
    outcome = await asked(socket, lambda client: client.apply("a b", file_name="f"), "b")
    got = [(each.kind, each.name, each.action, each.generation) for each in outcome.objects]
    assert got == [("Model", "a", "created", 1), ("Model", "b", "unchanged", 1)]
    assert outcome.warnings == ("careful",)


async def test_diff_tells_what_would_change(socket):
    """The unified difference and the plan."""
    (each,) = (await asked(socket, lambda client: client.diff("a"))).objects
    assert (each.name, each.unified, each.plan) == ("a", "+a\n", ("start",))


async def test_get_is_a_typed_object(socket):
    """Spec and details are plain values, and conditions are found by type."""
    got = await asked(socket, lambda client: client.get("Model", "a"), "a")
    assert (got.kind, got.name, got.labels, got.generation) == ("Model", "a", {"team": "search"}, 1)
    assert got.spec == {"base": {"source": "/m"}, "maxLength": None}
    assert got.status.details == {"lanes": 2}
    assert got.status.condition("Ready").reason == "Serving"
    assert got.status.condition("Loaded") is None


async def test_list_reads_all_pages(socket, monkeypatch):
    """However many pages there are, every object comes once."""
    monkeypatch.setattr(admin, "PAGE_ROWS", 2)
    names = [f"m{number}" for number in range(5)]
    got = await asked(socket, lambda client: [each.name for each in client.list("Model")], *names)
    assert got == names


async def test_the_adapters_of_one_model_are_listed(socket):
    """The daemon chooses them."""
    got = await asked(socket, lambda client: list(client.list("Adapter", model="english")))
    assert [each.name for each in got] == ["english/a"]


async def test_pages_are_read_when_they_are_wanted(socket, monkeypatch):
    """Whoever stops after the first page asks for no other."""
    monkeypatch.setattr(admin, "PAGE_ROWS", 2)
    got = await asked(socket, lambda client: next(client.pages("Model")), "a", "b", "c")
    assert [each.name for each in got] == ["a", "b"]


async def test_a_version_has_its_time(socket):
    """Of the object that was asked for."""

    def ask(client: admin.AdminClient) -> admin.Object:
        return next(client.list("Adapter", model="english"))

    (version,) = (await asked(socket, ask)).status.versions
    assert (version.digest, version.since) == ("sha256:d2", "2026-01-02T00:00:00Z")


async def test_watch_yields_changes(socket):
    """Types are words; what is deleted has no spec; leaving is enough to end it."""
    told = [
        watched.added("a", "b"),
        views.Change(type="synced"),
        views.Change(type="deleted", objects=(watched.view("a"),)),
    ]

    def ask(client: admin.AdminClient) -> list[tuple[str, list[str]]]:
        changes = client.watch("Adapter")
        got = [next(changes) for _ in range(3)]
        changes.close()
        return [(each.type, [one.name for one in each.objects]) for each in got]

    assert await asked(socket, ask, told=told) == [
        ("added", ["a", "b"]),
        ("synced", []),
        ("deleted", ["a"]),
    ]


async def test_a_watch_ends_with_its_time(socket):
    """After what was told until then."""

    def ask(client: admin.AdminClient) -> list[str]:
        changes = client.watch(timeout_s=0.2)
        first = next(changes)
        with pytest.raises(failure.CallError) as caught:
            next(changes)
        return [first.type, caught.value.code]

    told = [views.Change(type="synced")]
    assert await asked(socket, ask, told=told) == ["synced", "DEADLINE_EXCEEDED"]


async def test_delete_forgets(socket):
    """What was deleted is gone."""

    def ask(client: admin.AdminClient) -> list[admin.Object]:
        client.delete("Model", "a")
        return list(client.list("Model"))

    assert await asked(socket, ask, "a") == []


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda client: client.get("Model", "none"), "NOT_FOUND"),
        (lambda client: client.delete("Model", "none"), "NOT_FOUND"),
        (lambda client: client.get("Pod", "a"), "INVALID_ARGUMENT"),
        (lambda client: list(client.list("Pod")), "INVALID_ARGUMENT"),
        (lambda client: client.apply("broken"), "INVALID_ARGUMENT"),
        (lambda client: list(client.watch("Pod")), "INVALID_ARGUMENT"),
        (lambda client: list(client.watch(name="a")), "INVALID_ARGUMENT"),
    ],
)
async def test_a_refused_verb_raises_its_status(socket, ask, code):
    """The code tells the command line how to exit."""
    with pytest.raises(failure.CallError) as caught:
        await asked(socket, ask)
    assert (caught.value.code, caught.value.unreachable) == (code, False)


@pytest.mark.parametrize("address", ["unix:/nonexistent/admin.sock", "127.0.0.1:1"])
def test_without_a_daemon_every_verb_fails_at_once(address):
    """In under a second, with the address tried and the remedy (checklist 40)."""
    began_s = time.monotonic()
    with admin.AdminClient(address) as client, pytest.raises(failure.CallError) as caught:
        client.get("Model", "a")
    assert time.monotonic() - began_s < 1
    assert caught.value.unreachable
    assert f"no daemon answers at '{address}'" in str(caught.value)
    assert "`bertd serve`" in str(caught.value)
