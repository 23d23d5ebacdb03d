"""Whatever fails stays where it failed, is said truthfully, and is tried again if that can help."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from bertd import errors
from bertd.reconcile import controller
from bertd.store import objects
from tests.reconcile import fakes as world
from tests.runtime import fakes

adapter, model, running = world.adapter, world.model, world.running
BROKEN = errors.BadArtifact("broken in /secret/place", reason="BadSafetensors")
AWAY = errors.Temporary("the disk is away", reason="DiskError")


@pytest.mark.parametrize(
    ("failures", "jitter", "delay_s"),
    [(1, 0, 0.1), (2, 0, 0.2), (4, 0, 0.8), (4, 1, 0.96), (4, -1, 0.64), (500, 0, 300)],
)
def test_retries_back_off(failures: int, jitter: float, delay_s: float) -> None:
    """Each failure in a row doubles the delay, up to five minutes, spread by 20 %."""
    assert controller.retry_delay_s(failures, jitter) == pytest.approx(delay_s)


async def test_what_may_heal_is_tried_again(tmp_path: Path) -> None:
    """A base on a disk that comes back serves without any command."""
    async with running(tmp_path) as here:
        here.resolver.bases["/base"] = AWAY
        await here.apply(model())
        await here.failed("Model", "m", "DiskError")
        assert here.condition("Model", "m", "Progressing").status == "True"
        here.resolver.bases["/base"] = "base"
        await here.ready("Model", "m")


async def test_what_cannot_heal_waits_for_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken base is not read again and again; callers learn the reason and no path."""
    monkeypatch.setattr(controller, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(controller, "RETRY_MAX_S", 0.01)
    async with running(tmp_path, ["a"]) as here:
        here.resolver.bases["/base"] = BROKEN
        await here.apply(model(), adapter("a"))
        await here.failed("Model", "m", "BadSafetensors")
        await here.failed("Adapter", "a", "BaseNotResolved")
        asked = len(here.resolver.asked)
        await asyncio.sleep(0.2)
        assert len(here.resolver.asked) <= asked + 1  # one may have been under way
        assert here.condition("Model", "m", "Progressing").status == "False"
        with pytest.raises(errors.NotServable) as told:
            here.serves("m")
        assert "/secret" not in str(told.value)


async def test_retries_do_not_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a failing Model is looked at, one retry is pending, not one for each look."""
    monkeypatch.setattr(controller, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(controller, "RETRY_MAX_S", 0.05)
    async with running(tmp_path) as here:
        here.resolver.bases["/base"] = AWAY
        for _ in range(30):
            await here.apply(model())
            await asyncio.sleep(0.005)
        asked = len(here.resolver.asked)
        await asyncio.sleep(0.3)
        assert len(here.resolver.asked) - asked <= 7


async def test_one_model_does_not_delay_another(tmp_path: Path) -> None:
    """While one Model hangs in its start and one fails for ever, a third becomes Ready."""

    class Hangs(fakes.FakeWorker):
        async def control(self, *args: Any, **fields: Any) -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

    async with running(tmp_path) as here:
        here.kind = Hangs
        await here.apply(model("hangs"))
        await fakes.until(lambda: len(here.workers) == 1)
        here.kind = fakes.FakeWorker
        here.resolver.bases["/bad"] = AWAY
        await here.apply(model("bad", "/bad"), model("good"))
        await here.ready("Model", "good")
        assert here.health["model/good"]
        assert not here.health["ready"]


async def test_one_adapter_does_not_hide_another(tmp_path: Path) -> None:
    """Adapters that cannot be resolved or loaded fail alone; the Model is Ready."""

    class Picky(fakes.FakeWorker):
        spoilt = frozenset({world.digest("b-1")})

    async with running(tmp_path, ["b", "c"]) as here:
        here.kind = Picky
        await here.apply(model(), adapter("a"), adapter("b"), adapter("c"))
        await here.ready("Adapter", "c")
        await here.failed("Adapter", "a", "SourceNotFound")
        await here.failed("Adapter", "b", "BlobCorrupt")
        await here.ready("Model", "m")
        with pytest.raises(errors.NotServable, match="BlobCorrupt"):
            here.serves("m", "b")
        assert here.resolver.forgotten == [world.digest("b-1")]


async def test_a_broken_stored_file_is_made_anew(tmp_path: Path) -> None:
    """A stored adapter that rotted on the disk is copied again from its source, and serves."""

    class Picky(fakes.FakeWorker):
        spoilt = frozenset({world.digest("a-1")})

    class Mended(world.Resolver):
        def forget(self, digests: Collection[str]) -> None:
            super().forget(digests)
            Picky.spoilt = frozenset()

    async with running(tmp_path, ["a"], resolver=Mended) as here:
        here.kind = Picky
        await here.apply(model(), adapter("a"))
        await fakes.until(lambda: here.resolver.forgotten == [world.digest("a-1")])
        await here.ready("Adapter", "a")
        await fakes.until(lambda: world.digest("a-1") in here.workers[0].loaded.values())


async def test_an_adapter_applied_after_a_failed_swap_hides_no_other(tmp_path: Path) -> None:
    """A revision that can be started at last gets all adapters, whatever was applied just now."""

    class Refuses(fakes.FakeWorker):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.refuse = errors.BadArtifact("no bf16 here", reason="Unsupported")

    async with running(tmp_path, ["a", "b"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        here.kind = Refuses
        await here.apply(model(precision="bf16"))
        await here.failed("Model", "m", "Unsupported")
        await here.settled()
        here.kind = fakes.FakeWorker
        await here.apply(adapter("b"))
        await here.ready("Adapter", "b")
        assert here.serves("m", "a") == world.digest("a-1")


async def test_retries_do_not_multiply_by_looks_at_some_adapters(tmp_path: Path) -> None:
    """One adapter that is tried again is tried as often whatever else is applied meanwhile."""
    async with running(tmp_path, ["a"]) as here:
        here.resolver.adapters["/away"] = AWAY
        await here.apply(model(), adapter("away"))
        await here.failed("Adapter", "away", "DiskError")
        await here.settled()
        failures = here.controller._failures["m"]
        pending = here.controller._retries["m"]
        await here.apply(adapter("a"))
        await here.ready("Adapter", "a")
        await here.settled()
        if not pending.cancelled() and pending.when() > asyncio.get_running_loop().time():
            assert here.controller._retries["m"] is pending
            assert here.controller._failures["m"] == failures


async def test_a_revision_that_lacks_an_adapter_is_not_switched_to(tmp_path: Path) -> None:
    """While an adapter cannot be loaded for now, the old revision keeps answering for all."""
    away = [AWAY]

    class Troubled(fakes.FakeWorker):
        async def control(self, operation: str, *args: Any, **fields: Any) -> dict[str, Any]:
            if operation == "load" and away:
                raise away[0]
            return await super().control(operation, *args, **fields)

    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")
        old = here.router.find("m", "a").revision
        here.kind = Troubled
        await here.apply(model(precision="bf16"))
        await here.failed("Model", "m", "DiskError")
        assert here.router.find("m", "a").revision == old
        away.clear()
        await here.ready("Model", "m")
        assert here.router.find("m", "a").revision != old


async def test_an_adapter_is_ready_only_when_its_newest_content_serves(tmp_path: Path) -> None:
    """Behind a Model whose new revision fails, a changed adapter does not claim to serve."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model(), adapter("a"))
        await here.ready("Adapter", "a")

        class Refuses(fakes.FakeWorker):
            async def control(self, *args: Any, **fields: Any) -> dict[str, Any]:
                raise BROKEN

        here.kind = Refuses
        await here.apply(model(precision="bf16"))
        await here.failed("Model", "m", "BadSafetensors")
        here.resolver.adapters["/a"] = "a-2"
        await here.apply(adapter("a", temperature="2.0"))
        await here.failed("Adapter", "a", "ModelNotReady")
        assert here.serves("m", "a") == world.digest("a-1")


async def test_limits_that_are_refused_do_not_hold_adapters_up(tmp_path: Path) -> None:
    """An impossible `maxLength` is reported; adapters of the same Model still load."""
    async with running(tmp_path, ["a"]) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        await here.apply(model(maxLength="65"), adapter("a"))
        await here.failed("Model", "m", "MaxLengthTooLarge")
        await here.ready("Adapter", "a")


async def test_an_unreadable_glob_unloads_nothing(tmp_path: Path) -> None:
    """When a folder of adapters is away, those that serve go on, through a reload as well."""
    folder = tmp_path / "tenants"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.safetensors").touch()
    async with running(tmp_path) as here:
        here.resolver.adapters |= {f"{folder}/{n}.safetensors": f"{n}-1" for n in ("a", "b")}
        globs = f"[{{source: {folder}/*.safetensors}}]"
        await here.apply(model(adapters=globs))
        await here.ready("Adapter", "m/b")
        folder.rename(tmp_path / "elsewhere")
        await here.apply(model(adapters=globs, maxLength="32"))
        await here.ready("Model", "m")
        assert here.serves("m", "a") == world.digest("a-1")
        await here.apply(model(adapters=globs, precision="bf16"))
        await here.ready("Model", "m")
        assert here.serves("m", "b") == world.digest("b-1")


async def test_health_follows_a_dead_worker_at_once(tmp_path: Path) -> None:
    """A Model is unhealthy from its worker's death on, before any reconcile, until one is up."""
    async with running(tmp_path) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        here.workers[0].die()
        assert not here.health["model/m"]
        await fakes.until(lambda: here.health["model/m"])


async def test_an_adapter_lost_in_a_restart_is_reported(tmp_path: Path) -> None:
    """When a replaced worker cannot load an adapter again, its status and its callers say so."""

    class Picky(fakes.FakeWorker):
        spoilt = frozenset({world.digest("a-1")})

    async with running(tmp_path, ["a", "b"]) as here:
        await here.apply(model(), adapter("a"), adapter("b"))
        await here.ready("Adapter", "b")
        here.kind = Picky
        here.workers[0].die()
        await here.failed("Adapter", "a", "BlobCorrupt")
        await here.ready("Adapter", "b")
        with pytest.raises(errors.NotServable):
            here.serves("m", "a")


async def test_the_resync_outlives_a_failing_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot be read for a while neither ends the resync nor loses a Model."""
    monkeypatch.setattr(controller, "RESYNC_S", 0.01)
    async with running(tmp_path) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        every = objects.Objects.every

        def broken(self: objects.Objects, kind: Any) -> Any:
            raise AWAY

        monkeypatch.setattr(objects.Objects, "every", broken)
        await asyncio.sleep(0.05)
        monkeypatch.setattr(objects.Objects, "every", every)
        here.resolver.bases["/base"] = "another"
        await fakes.until(lambda: len(here.workers) == 2)


async def test_a_stopping_controller_starts_nothing(tmp_path: Path) -> None:
    """A worker that dies while the daemon stops leaves no process behind."""
    async with running(tmp_path) as here:
        await here.apply(model())
        await here.ready("Model", "m")
        dying = asyncio.ensure_future(_die_while_draining(here))
    await dying
    await fakes.turn()
    assert all(worker.lost for worker in here.workers)


async def _die_while_draining(here: world.World) -> None:
    route = here.router.find("m", "")
    await fakes.until(lambda: not _serves(here))
    here.workers[0].die()
    del route


def _serves(here: world.World) -> bool:
    try:
        here.serves("m")
    except errors.Error:
        return False
    return True
