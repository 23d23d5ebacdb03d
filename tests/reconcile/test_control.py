"""What operators ask, on a controller at work: nothing waits for the disk, nothing is half done."""

import asyncio
import threading
from pathlib import Path

import pytest

from bertd import errors
from bertd.store import objects
from tests.reconcile import fakes as world
from tests.reconcile.fakes import adapter, model, running
from tests.runtime import fakes

TEXT = "apiVersion: bertd.dev/v1\n" + model()


async def test_an_apply_is_finished_though_its_caller_left(tmp_path: Path) -> None:
    """What is stored is made true at once, not at the next resync."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        text = "apiVersion: bertd.dev/v1\n" + adapter("a")
        asked = asyncio.ensure_future(here.control.apply(text, "f", "/", False))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await here.ready("Adapter", "a")
        assert here.serves("m", "a") == world.digest("a-1")


async def test_a_delete_is_finished_though_its_caller_left(tmp_path: Path) -> None:
    """What is forgotten does not serve on."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        asked = asyncio.ensure_future(here.control.delete("Adapter", "a"))
        await asyncio.sleep(0)
        asked.cancel()
        await fakes.until(lambda: not _serves(here, "a"))
        with pytest.raises(errors.NotFound):
            here.control.get("Adapter", "a")


async def test_the_event_loop_never_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever writes, or reads more than one row, does so in another thread (issue 3)."""
    on_loop: list[str] = []

    def watched(name: str) -> None:
        real = getattr(objects.Objects, name)

        def call(*args: object, **options: object) -> object:
            if threading.current_thread() is threading.main_thread():
                on_loop.append(name)
            return real(*args, **options)

        monkeypatch.setattr(objects.Objects, name, call)

    for name in ("apply_many", "delete", "list", "list_of_model", "some"):
        watched(name)
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        await here.control.diff(TEXT, "f", "/")
        await here.control.apply(TEXT, "f", "/", True)
        assert [each.name for each in (await here.control.list("Adapter", 5, "")).objects] == ["a"]
        page = await here.control.list_of_model("m", 5, "")
        assert [each.name for each in page.objects] == ["a"]
        await here.control.delete("Adapter", "a")
    assert on_loop == []


async def test_a_watch_follows_an_object_through_its_life(tmp_path: Path) -> None:
    """It is added, becomes Ready, and goes, for whoever watches (issue 3)."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        changes = here.control.watch("Adapter", "", 10)
        assert (await anext(changes)).type == "synced"
        await here.apply(adapter("a"))
        change = await asyncio.wait_for(anext(changes), 10)
        assert (change.type, [each.name for each in change.objects]) == ("added", ["a"])
        while not _is_ready(change.objects[0]):
            change = await asyncio.wait_for(anext(changes), 10)
            assert change.type == "modified"
        await here.apply(adapter("a"))
        await here.control.delete("Adapter", "a")
        while change.type != "deleted":
            change = await asyncio.wait_for(anext(changes), 10)
        assert [each.name for each in change.objects] == ["a"]
        here.control.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(changes), 10)


async def test_a_dry_run_and_an_unchanged_object_are_no_news(tmp_path: Path) -> None:
    """Watchers hear of what is stored, not of what might be."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        watchers = here.controller.statuses.watchers
        with watchers.watching("", "") as watcher:
            text = "apiVersion: bertd.dev/v1\n" + adapter("a")
            await here.control.apply(text, "f", "/", True)
            assert watcher.take(10) == {}
            here.controller.poke = lambda *_: None
            here.controller.poke_some = lambda _: None
            await here.control.apply(TEXT, "f", "/", False)
            assert watcher.take(10) == {}
            await here.control.apply(text, "f", "/", False)
            assert watcher.take(10) == {("Adapter", "a"): False}


def _serves(here: world.World, name: str) -> bool:
    try:
        here.serves("m", name)
    except errors.Error:
        return False
    return True


def _is_ready(view: object) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in view.status.conditions)
