"""What one change among thousands of adapters touches, and what it leaves alone."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bertd import errors
from bertd.checkpoint import sources
from bertd.reconcile import controller, looks, resolving
from tests.reconcile import fakes as world
from tests.runtime import fakes

adapter, model, running = world.adapter, world.model, world.running


def tenants(folder: Path, *names: str) -> str:
    """A directory with a file for each name; returns the declaration of a glob over it."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.safetensors").touch()
    return f"[{{source: {folder}/*.safetensors}}]"


def declares(here: world.World, name: str) -> bool:
    """Whether callers are told that a name is known."""
    try:
        here.serves("m", name)
    except errors.NotFound:
        return False
    return True


def content(here: world.World, folder: Path, name: str, now: str) -> None:
    """What the file of an adapter holds from now on."""
    here.resolver.adapters[f"{folder}/{name}.safetensors"] = now


@contextlib.asynccontextmanager
async def serving_a_glob(tmp_path: Path) -> AsyncIterator[tuple[world.World, Path]]:
    """A Model that serves one adapter, `a`, from a glob, and the folder of the glob."""
    folder = tmp_path / "tenants"
    async with running(tmp_path / "state", []) as here:
        content(here, folder, "a", "a-1")
        await here.apply(model(adapters=tenants(folder, "a")))
        await here.ready("Adapter", "m/a")
        await here.settled()
        here.resolver.asked.clear()
        yield here, folder


async def test_one_applied_adapter_is_the_only_one_looked_at(tmp_path: Path) -> None:
    """Applying one Adapter reads its source alone, whatever else its Model declares."""
    async with running(tmp_path, ["a", "b", "c"]) as here:
        await here.apply(model(), adapter("a"), adapter("b"))
        await here.ready("Adapter", "b")
        await here.settled()
        here.resolver.asked.clear()
        await here.apply(adapter("c"))
        await here.ready("Adapter", "c")
        await here.settled()
        assert here.resolver.asked == ["/c"]
        assert {here.serves("m", name) for name in "abc"} == {
            world.digest(f"{name}-1") for name in "abc"
        }


async def test_a_look_at_one_adapter_says_nothing_of_others(tmp_path: Path) -> None:
    """An adapter that fails is reported alone; others keep serving and keep their status."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"), adapter("gone"))
        await here.failed("Adapter", "gone", "SourceNotFound")
        await here.apply(adapter("bad"))
        await here.failed("Adapter", "bad", "SourceNotFound")
        assert here.condition("Adapter", "gone").reason == "SourceNotFound"
        assert here.condition("Adapter", "a").status == "True"
        assert here.serves("m", "a") == world.digest("a-1")
        for name in ("gone", "bad"):
            with pytest.raises(errors.NotServable):
                here.serves("m", name)


async def test_a_changed_model_makes_a_look_at_one_adapter_a_look_at_all(tmp_path: Path) -> None:
    """What was applied to the Model in the same moment is not forgotten for its adapter."""
    async with running(tmp_path, ["a", "b"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        await here.apply(model(maxLength="32"))
        await here.apply(adapter("b"))
        await here.ready("Adapter", "b")
        await here.ready("Model", "m")
        assert here.router.find("m", "b").tokenizer.max_length == 32


async def test_a_new_file_under_a_glob_answers_its_first_call(tmp_path: Path) -> None:
    """Nothing has to be applied: the first call for the name of a new file finds it."""
    async with serving_a_glob(tmp_path) as (here, folder):
        tenants(folder, "new")
        content(here, folder, "new", "new-1")
        digest = (await here.router.search("m", "new")).digest
        assert digest == world.digest("new-1")
        assert here.resolver.asked == [f"{folder}/new.safetensors"]
        await here.ready("Adapter", "m/new")


async def test_a_burst_of_first_calls_is_answered(tmp_path: Path) -> None:
    """Calls that ask for one new file at once wait for one look, however many they are."""
    async with serving_a_glob(tmp_path) as (here, folder):
        tenants(folder, "new")
        content(here, folder, "new", "new-1")
        calls = [here.router.search("m", "new") for _ in range(4 * looks.AT_ONCE_MAX)]
        found = await asyncio.gather(*calls)
        assert {route.digest for route in found} == {world.digest("new-1")}
        assert here.resolver.asked == [f"{folder}/new.safetensors"]


async def test_a_call_while_the_daemon_stops_finds_nothing_new(tmp_path: Path) -> None:
    """Nothing is looked at any more, and the caller is told so, not of a fault."""
    async with serving_a_glob(tmp_path) as (here, folder):
        tenants(folder, "new")
        here.controller._closing = True
        with pytest.raises(errors.NotFound):
            await here.router.search("m", "new")


async def test_names_that_are_not_there_cost_one_look_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls for names that nobody declares read the disk rarely, and never the sources."""
    asked: list[str] = []
    exists = os.path.exists
    async with serving_a_glob(tmp_path) as (here, folder):
        monkeypatch.setattr(os.path, "exists", lambda path: asked.append(path) or exists(path))
        for _ in range(20):
            with pytest.raises(errors.NotFound):
                await here.router.search("m", "nobody")
        assert asked == [f"{folder}/nobody.safetensors"]
        monkeypatch.setattr(looks, "AGAIN_S", 0.0)
        with pytest.raises(errors.NotFound):
            await here.router.search("m", "nobody")
        assert len(asked) == 2
        assert here.resolver.asked == []


async def test_names_cannot_lead_out_of_the_glob(tmp_path: Path) -> None:
    """A name is matched as text first: no path of a caller's making is ever looked up."""
    (tmp_path / "secret.safetensors").touch()
    async with serving_a_glob(tmp_path) as (here, _):
        for name in ("../secret", ".hidden", "a/../../secret", "a\x00", "UPPER", "a" * 64):
            with pytest.raises(errors.NotFound):
                await here.router.search("m", name)
        assert here.resolver.asked == []


async def test_a_call_names_no_file_in_another_folder(tmp_path: Path) -> None:
    """Only what a glob names may be called: no name reaches beneath or beside its folder."""
    async with serving_a_glob(tmp_path) as (here, folder):
        tenants(folder / "off", "x")
        tenants(tmp_path / "other", "y")
        for name in ("off/x", "off/../../other/y"):
            content(here, folder, name, "secret")
            with pytest.raises(errors.NotFound):
                await here.router.search("m", name)
        assert here.resolver.asked == []


async def test_while_thousands_are_read_their_names_are_not_unknown(tmp_path: Path) -> None:
    """A base that serves before its glob was read tells callers to come back, and is not ready."""
    folder = tmp_path / "tenants"

    may_read = threading.Event()

    class Slow(world.Resolver):
        def each_adapter(
            self, places: Sequence[sources.Listed], *args: Any
        ) -> list[resolving.Adapter | errors.Error]:
            assert not places or may_read.wait(world.GATE_TIMEOUT_S)
            return super().each_adapter(places, *args)

    async with running(tmp_path / "state", [], resolver=Slow) as here:
        content(here, folder, "a", "a-1")
        await here.apply(model(adapters=tenants(folder, "a")))
        await fakes.until(lambda: _answers(here))
        with pytest.raises(errors.NotReady):
            await here.router.search("m", "a")
        await here.controller._tell_readiness()
        assert not here.health["ready"]
        may_read.set()
        await here.ready("Adapter", "m/a")
        await fakes.until(lambda: here.health["ready"])
        with pytest.raises(errors.NotFound):
            await here.router.search("m", "b")


def _answers(here: world.World) -> bool:
    try:
        return here.serves("m") == ""
    except errors.Error:
        return False


async def test_a_replaced_file_under_a_glob_is_picked_up_at_resync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New content serves and a removed file stops serving without any command."""
    monkeypatch.setattr(controller, "RESYNC_S", 0.01)
    folder = tmp_path / "tenants"
    async with running(tmp_path / "state", []) as here:
        for name in ("a", "b"):
            content(here, folder, name, f"{name}-1")
        await here.apply(model(adapters=tenants(folder, "a", "b")))
        await here.ready("Adapter", "m/b")
        content(here, folder, "a", "a-2")
        await fakes.until(lambda: here.serves("m", "a") == world.digest("a-2"))
        (folder / "b.safetensors").unlink()
        await fakes.until(lambda: not declares(here, "b"))


async def test_equal_files_lie_in_memory_once(tmp_path: Path) -> None:
    """Adapters with the same content share it; it stays until the last of them is removed."""
    async with running(tmp_path, []) as here:
        here.resolver.adapters |= {"/a": "same", "/b": "same"}
        await here.apply(model(), adapter("a"), adapter("b"))
        await here.ready("Adapter", "b")
        await here.settled()
        await here.controller._live["m"].serving.revision.adapters.settled()
        assert list(here.workers[0].loaded.values()) == [world.digest("same")]
        await here.control.delete("Adapter", "a")
        await here.settled()
        assert here.serves("m", "b") == world.digest("same")
        assert list(here.workers[0].loaded.values()) == [world.digest("same")]
        await here.control.delete("Adapter", "b")
        await fakes.until(lambda: not here.workers[0].loaded)


async def test_less_memory_keeps_every_adapter_servable(tmp_path: Path) -> None:
    """`adapterMemory` changes in place: names stay, only fewer adapters lie in memory."""
    names = [f"a{n}" for n in range(20)]
    async with running(tmp_path, names) as here:
        await here.apply(model(), *(adapter(name) for name in names))
        await here.ready("Adapter", "a19")
        old = here.serves("m", "a0"), here.router.find("m", "a0").revision
        await here.apply(model(adapterMemory="1MiB"))
        await here.ready("Model", "m")
        assert (here.serves("m", "a0"), here.router.find("m", "a0").revision) == old
