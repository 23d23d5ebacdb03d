"""What is declared becomes what runs, without a moment in which a name is answered wrongly."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from bertd import errors
from bertd.reconcile import controller, desire, status
from tests.reconcile import fakes as world
from tests.runtime import fakes

adapter, model, running = world.adapter, world.model, world.running


async def test_a_model_and_its_adapters_serve(tmp_path: Path) -> None:
    """Applied objects become routes, Ready conditions and healthy names."""
    async with running(tmp_path, ["a", "b"]) as here:
        await fakes.until(lambda: here.health.get("startup", False))
        await here.apply(model(), adapter("a"), adapter("b"))
        await here.ready("Adapter", "b")
        assert here.serves("m", "a") == world.digest("a-1")
        assert here.health["model/m"]
        assert here.health["ready"]
        assert here.status("Model", "m").details["adapters"] == 2
    assert all(worker.lost for worker in here.workers)


async def test_a_declared_adapter_is_never_unknown(tmp_path: Path) -> None:
    """From apply on, a new adapter is loading or serving, never NOT_FOUND."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        told = []
        await here.apply(adapter("a"))
        while "served" not in told:
            await asyncio.sleep(0)
            try:
                here.serves("m", "a")
                told.append("served")
            except errors.Error as error:
                told.append(type(error).__name__)
        assert set(told[1:]) <= {"NotReady", "served"}


async def test_an_adapter_applied_again_is_never_unknown(tmp_path: Path) -> None:
    """An adapter that is declared again while its deletion is reconciled is on its way."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        await here.settled()
        read, may_go_on = here.controller._declarations.read, threading.Event()

        def read_and_wait(*args: Any) -> desire.Declared | None:
            found = read(*args)
            assert may_go_on.wait(world.GATE_TIMEOUT_S)
            return found

        here.controller._declarations.read = read_and_wait  # type: ignore[method-assign]
        await here.control.delete("Adapter", "a")
        await here.apply(adapter("a"))
        may_go_on.set()
        told = set()
        while here.controller._tasks:
            await asyncio.sleep(0)
            try:
                here.serves("m", "a")
                told.add("served")
            except errors.Error as error:
                told.add(type(error).__name__)
        assert told <= {"NotReady", "served"}
        assert here.serves("m", "a") == world.digest("a-1")


async def test_two_rapid_applies_become_one_reconcile(tmp_path: Path) -> None:
    """Changes that arrive during a reconcile make it run once more, however many they are."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        before = len(here.resolver.asked)
        here.resolver.gate.clear()
        await here.apply(adapter("a"))
        await fakes.until(lambda: len(here.resolver.asked) == before + 1)
        for temperature in range(2, 12):
            await here.apply(adapter("a", temperature=f"{temperature}.0"))
        here.resolver.gate.set()
        await here.ready("Adapter", "a")
        output = here.router.find("m", "a").output
        assert output is not None
        assert output.temperature == 11
        assert len(here.resolver.asked) == before + 2
        assert len(here.workers) == 1


async def test_a_model_deleted_while_it_loads_leaves_nothing(tmp_path: Path) -> None:
    """Deleting during a start ends the worker and forgets name, health and status."""
    loading = asyncio.Event()

    class Slow(fakes.FakeWorker):
        async def control(self, operation: str, *args: Any, **fields: Any) -> dict[str, Any]:
            await loading.wait()
            return await super().control(operation, *args, **fields)

    async with running(tmp_path) as here:
        here.kind = Slow
        await here.apply(model())
        await fakes.until(lambda: bool(here.workers))
        await here.control.delete("Model", "m")
        loading.set()
        await fakes.until(lambda: here.workers[0].lost)
        await fakes.until(lambda: ("model/m", None) in here.told)
        with pytest.raises(errors.NotFound):
            here.serves("m")
        with pytest.raises(errors.NotFound):
            here.control.get("Model", "m")
        assert here.health["ready"]


async def test_a_deleted_adapter_leaves_no_status_behind(tmp_path: Path) -> None:
    """An adapter deleted during a reconcile and applied again is not Ready before it is found."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        await here.settled()
        here.resolver.gate.clear()
        await here.apply(adapter("a"))
        await fakes.until(lambda: bool(here.status("Adapter", "a").conditions))
        await here.control.delete("Adapter", "a")
        here.resolver.gate.set()
        await here.settled()
        here.resolver.adapters["/a"] = errors.BadArtifact("broken", reason="BadSafetensors")
        await here.apply(adapter("a"))
        assert not here.status("Adapter", "a").conditions
        await here.failed("Adapter", "a", "BadSafetensors")


async def test_an_adapter_that_changes_its_model_leaves_the_old_one(tmp_path: Path) -> None:
    """Both Models follow at once when an Adapter names another Model than before."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model("m"), model("n"), adapter("a", "m"))
        await here.ready("Adapter", "a")
        await here.apply(adapter("a", "n"))
        await fakes.until(lambda: _routes(here, "a", "n") and not _routes(here, "a", "m"))


async def test_transition_times_move_only_when_the_status_flips() -> None:
    """A status keeps its time whatever its reason; a flip takes the new one (checklist 15)."""
    error = errors.Temporary("away", reason="DiskError")
    first = status.observe((), status.pending("Reconciling", ""), generation=1, time="t1")
    second = status.observe(first, status.failed(status.LOADED, error), generation=1, time="t2")
    third = status.observe(second, status.ready("serves"), generation=2, time="t3")
    fourth = status.observe(third, status.ready("serves more"), generation=3, time="t4")
    times = [{c.type: c.last_transition_time for c in each} for each in (second, third, fourth)]
    assert times[0] == {
        "ArtifactsResolved": "t2", "Loaded": "t2", "Ready": "t1", "Progressing": "t1"
    }  # fmt: skip
    assert times[1] == {
        "ArtifactsResolved": "t2", "Loaded": "t3", "Ready": "t3", "Progressing": "t3"
    }  # fmt: skip
    assert times[2] == times[1]
    assert {c.observed_generation for c in fourth} == {3}


async def test_unused_files_are_swept_after_a_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When content is replaced, files are removed that neither a revision nor a caller reads."""
    monkeypatch.setattr(controller, "SWEEP_AGAIN_S", 0.0)
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        caller = here.router.find("m", "a")
        here.resolver.adapters["/a"] = "a-2"
        await here.apply(adapter("a", temperature="2.0"))
        await fakes.until(lambda: bool(here.resolver.kept))
        assert {world.digest(c) for c in ("base", "a-1", "a-2")} <= here.resolver.kept[-1]
        del caller
        here.resolver.adapters["/a"] = "a-3"
        await here.apply(adapter("a", temperature="3.0"))
        await fakes.until(lambda: world.digest("a-3") in here.resolver.kept[-1])
        assert world.digest("a-1") not in here.resolver.kept[-1]


async def test_files_are_not_swept_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep looks at every stored file: many replacements in a row need one, and one later."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        for number in range(2, 8):
            here.resolver.adapters["/a"] = f"a-{number}"
            await here.apply(adapter("a"))
            await here.settled()
        await fakes.until(lambda: bool(here.resolver.kept))
        assert len(here.resolver.kept) == 1
        monkeypatch.setattr(here.controller, "_sweep_from_s", 0.0)
        await here.apply(model())
        await fakes.until(lambda: len(here.resolver.kept) == 2)
        assert world.digest("a-6") not in here.resolver.kept[-1]


async def test_many_adapters_leave_at_once(tmp_path: Path) -> None:
    """Removing hundreds of adapters publishes routes a few times, not once for each."""
    names = [f"a{n}" for n in range(300)]
    async with running(tmp_path, names) as here:
        inline = ", ".join(f"{{name: {name}, source: /{name}}}" for name in names)
        await here.apply(model(adapters=f"[{inline}]"))
        await here.ready("Adapter", "m/a299")
        published = []
        publish = here.router.publish
        here.router.publish = lambda *args: (published.append(1), publish(*args))[1]  # type: ignore[method-assign]
        await here.apply(model(adapters="[]"))
        await fakes.until(lambda: not _routes(here, "a299"))
        assert len(published) < 20


def _routes(here: world.World, name: str, model_name: str = "m") -> bool:
    try:
        here.serves(model_name, name)
    except errors.Error:
        return False
    return True
