"""What the command line's verbs stand on."""

import asyncio
import time

import pytest

from bertd.client import admin, failure
from tests.serving import fakes


async def asked(socket: str, ask, *names: str):
    """What a function gets that asks a daemon with these Models."""
    async with fakes.running({}, socket) as daemon:
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
