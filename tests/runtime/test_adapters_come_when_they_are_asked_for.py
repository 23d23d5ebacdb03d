"""Declared adapters are in memory while there is room, and come back when they are asked for."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from bertd import errors
from bertd.runtime import memory, residency, revision, slots
from tests.runtime import fakes


def held(bench: fakes.Bench) -> set[str]:
    """Digests in the worker's table."""
    return set(bench.process.loaded.values())


def room_for(bench: fakes.Bench, adapters: int) -> None:
    """Lets so many adapters lie in memory."""
    bench.revision.adapters.limit(adapters * (fakes.SLOT_BYTES + 1))


async def asked(bench: fakes.Bench, content: slots.Content) -> None:
    """One call of an adapter, answered."""
    call = bench.call(1, by=content)
    await fakes.until(lambda: bool(bench.process.running))
    bench.process.finish(0)
    await call
    del call
    await fakes.turn()


class Slow(fakes.FakeWorker):
    """Loads only when a test says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate = asyncio.Event()

    async def load(self, adapters: list[dict[str, Any]]) -> dict[str, Any]:
        await self.gate.wait()
        if self.lost:
            raise errors.Temporary("the worker process ended", reason="WorkerLost")
        return await super().load(adapters)


async def slow() -> tuple[fakes.Bench, Slow]:
    """A bench whose worker loads nothing before its gate is set."""
    bench = fakes.Bench()
    bench.use(Slow)
    await bench.revision.start()
    assert isinstance(bench.process, Slow)
    return bench, bench.process


async def test_declared_adapters_are_loaded_in_groups() -> None:
    """Nobody has to ask: everything that has room is in memory soon, many by one message."""
    bench = await fakes.started()
    for number in range(100):
        bench.declare(str(number))
    await bench.revision.adapters.settled()
    assert len(bench.process.loaded) == 100
    assert max(map(len, bench.process.groups)) == residency.BACKGROUND_ADAPTERS
    assert len(bench.process.groups) <= 8
    assert bench.counter("bertd_adapters", model="m") == 100
    assert bench.counter("bertd_adapter_cache_adapters", model="m") == 100
    assert bench.counter("bertd_adapter_cache_bytes", model="m") == 100 * (fakes.SLOT_BYTES + 1)
    assert bench.counter("bertd_adapter_slot_bytes", model="m") == fakes.SLOT_BYTES


async def test_equal_files_share_a_slot() -> None:
    """Adapters of the same content lie in memory once."""
    bench = await fakes.started()
    assert bench.declare("a") is bench.declare("a")
    await bench.revision.adapters.settled()
    assert len(bench.process.loaded) == 1


async def test_background_loading_never_evicts() -> None:
    """What does not fit stays on the disk until somebody asks for it."""
    bench = await fakes.started()
    room_for(bench, 3)
    for name in "abcdef":
        await bench.load(name)
    assert held(bench) == {"a", "b", "c"}
    assert bench.counter("bertd_adapter_cache_evictions_total", model="m") == 0


async def test_the_least_recently_used_makes_room() -> None:
    """A call for an adapter that is not in memory loads it in place of the longest unused."""
    bench = await fakes.started()
    room_for(bench, 3)
    contents = {name: await bench.load(name) for name in "abcd"}
    await asked(bench, contents["a"])
    await asked(bench, contents["d"])
    assert held(bench) == {"a", "c", "d"}
    assert bench.counter("bertd_adapter_cache_hits_total", model="m") == 1
    assert bench.counter("bertd_adapter_cache_misses_total", model="m") == 1
    assert bench.counter("bertd_adapter_cache_evictions_total", model="m") == 1


async def test_an_evicted_adapter_keeps_its_slot_while_rows_run_on_it() -> None:
    """Eviction never takes a slot from a row that waits: its answer is its own adapter's."""
    bench = await fakes.started()
    room_for(bench, 1)
    first, second = await bench.load("a"), await bench.load("b")
    slot = bench.slot("a")
    busy = bench.call(0)
    waiting = bench.call(1, by=first)
    other = bench.call(2, by=second)
    await fakes.until(lambda: "b" in held(bench))
    assert bench.process.loaded[slot] == "a"
    while bench.process.running:
        bench.process.finish(0)
        await fakes.turn()
    await busy
    assert (await waiting).vectors[0][0, 1] == slot
    assert (await other).vectors[0][0, 1] == bench.slot("b")
    del waiting, other
    await fakes.turn()
    assert held(bench) == {"b"}


async def test_callers_of_one_cold_adapter_wait_for_one_load() -> None:
    """Fifty calls that come while an adapter is loaded cause no second load."""
    bench, process = await slow()
    content = bench.declare("a")
    calls = [bench.call(n, by=content) for n in range(50)]
    await fakes.turn()
    process.gate.set()
    await fakes.until(lambda: bool(process.running))
    while process.running:
        process.finish(0)
        await fakes.turn()
    await asyncio.gather(*calls)
    assert process.groups == [["a"]]


async def test_a_caller_comes_before_the_background() -> None:
    """What somebody waits for is in the very next group, whatever waits to be loaded ahead."""
    bench, process = await slow()
    contents = [bench.declare(str(number)) for number in range(200)]
    await fakes.turn()
    call = bench.call(1, by=contents[-1])
    await fakes.turn()
    process.gate.set()
    await fakes.until(lambda: bool(process.running))
    assert process.groups[1] == ["199"]
    process.finish(0)
    await call


async def test_a_deadline_bounds_the_wait_for_an_adapter() -> None:
    """A call whose adapter is not loaded in time expires; the adapter is loaded for the next."""
    bench, process = await slow()
    content = bench.declare("a")
    call = bench.call(1, by=content, deadline_s=0.01)
    with pytest.raises(errors.Expired, match="being loaded"):
        await call
    assert bench.counter("bertd_expired_total", model="m") == 1
    process.gate.set()
    await asked(bench, content)


async def test_a_cancelled_caller_leaves_nothing_to_load() -> None:
    """An adapter that nobody declares and nobody waits for any more is not loaded."""
    bench = fakes.Bench()  # nothing is loaded before its worker is up
    call = bench.call(1, by=slots.Content("a", Path("/a"), inline=True))
    await fakes.turn()
    call.cancel()
    await bench.revision.start()
    await bench.revision.adapters.settled()
    assert bench.process.groups == []


async def test_callers_that_gave_up_are_forgotten() -> None:
    """While no worker is up, calls come and expire for hours: nothing of them is kept."""
    bench = fakes.Bench()
    adapters = bench.revision.adapters
    content = bench.declare("a")
    for number in range(20):
        with pytest.raises(errors.Expired):
            await bench.call(number, by=content, deadline_s=0.0)
    assert adapters._waiters == 0
    assert not adapters._demands


async def test_a_disk_that_fails_for_a_moment_loses_no_adapter() -> None:
    """What the worker cannot read just now is tried again by the next call; it is not broken."""
    told: list[str] = []
    bench = fakes.Bench()

    class Away(fakes.FakeWorker):
        spoilt = frozenset({"a"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "SPOILT", fakes.SPOILT | {"kind": "Temporary", "reason": "DiskError"})
        bench.use(Away)
        bench.revision.adapters._on_lost = lambda: told.append("lost")
        await bench.revision.start()
        content = bench.declare("a")
        with pytest.raises(errors.NotReady):
            await bench.call(1, by=content)
        with pytest.raises(errors.Temporary):
            await bench.revision.adapters.fill()
    assert not told
    assert not bench.revision.adapters.lost
    Away.spoilt = frozenset()
    await asked(bench, content)


async def test_large_heads_do_not_outgrow_the_memory() -> None:
    """The bytes of a head are known when it is loaded: what is too much then makes room."""

    class Heavy(fakes.FakeWorker):
        async def load(self, adapters: list[dict[str, Any]]) -> dict[str, Any]:
            found = await super().load(adapters)
            return found | {"headBytes": {str(each["slot"]): 900 for each in adapters}}

    bench = fakes.Bench()
    bench.use(Heavy)
    await bench.revision.start()
    bench.revision.adapters.limit(3000)
    for name in "abcdefgh":
        bench.declare(name)
    await bench.revision.adapters.settled()
    assert len(held(bench)) == 3
    assert bench.counter("bertd_adapter_cache_bytes", model="m") == 3000


async def test_a_retired_revision_says_nothing_of_its_model() -> None:
    """What the old revision still loads does not overwrite what is told of the new one."""
    bench = await fakes.started()
    content = await bench.load("a")
    late, new = bench.revision.base, bench.another("m")
    await new.start()
    for name in "bc":
        new.adapters.declare(slots.Content(name, Path(f"/{name}")))
    await new.adapters.settled()
    closing = asyncio.ensure_future(bench.revision.close())
    await fakes.turn()
    call = bench.call(1, by=content)
    await fakes.until(lambda: bool(bench.workers[0].running))
    assert bench.counter("bertd_adapters", model="m") == 2
    bench.workers[0].finish(0)
    await call
    del call, late
    await closing
    await new.close()


async def test_too_many_waiting_callers_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of calls that wait for adapters is bounded; more are told when to come back."""
    monkeypatch.setattr(residency, "WAITERS_MAX", 2)
    bench, process = await slow()
    content = bench.declare("a")
    calls = [bench.call(n, by=content) for n in range(2)]
    await fakes.turn()
    with pytest.raises(errors.Overloaded) as refusal:
        await bench.call(3, by=content)
    assert refusal.value.retry_after_s > 0
    process.gate.set()
    await fakes.until(lambda: bool(process.running))
    while process.running:
        process.finish(0)
        await fakes.turn()
    await asyncio.gather(*calls)


async def test_a_worker_that_dies_while_loading_costs_no_call() -> None:
    """Whoever waits for an adapter gets it from the next worker."""
    bench, process = await slow()
    content = bench.declare("a")
    call = bench.call(7, by=content)
    await fakes.turn()
    bench.use(fakes.FakeWorker)
    process.die()
    process.gate.set()
    await fakes.until(lambda: bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 7


async def test_after_a_restart_the_most_recently_used_come_first() -> None:
    """Calls are answered before thousands of adapters are loaded again, the busiest ones first."""
    bench = await fakes.started()
    contents = [await bench.load(str(number)) for number in range(100)]
    await asked(bench, contents[5])
    bench.process.die()
    await fakes.until(lambda: bench.revision.serving)
    await bench.revision.adapters.settled()
    assert len(bench.process.loaded) == 100
    assert bench.process.groups[0][0] == "5"


async def test_a_broken_file_is_told_once_and_hurts_nobody_else() -> None:
    """A stored file that is not what it was is reported; its callers come back, others load."""
    told: list[str] = []
    bench = fakes.Bench()

    class Spoilt(fakes.FakeWorker):
        spoilt = frozenset({"bad"})

    bench.use(Spoilt)
    bench.revision.adapters._on_lost = lambda: told.append("lost")
    bench.revision.adapters._on_loaded = lambda: told.append("loaded")
    await bench.revision.start()
    bad = bench.declare("bad")
    good = await bench.load("good")
    assert told == ["lost", "loaded"]
    assert set(bench.revision.adapters.lost) == {"bad"}
    with pytest.raises(errors.NotReady):
        await bench.call(1, by=bad)
    await asked(bench, good)
    bench.revision.adapters.forget("bad")
    Spoilt.spoilt = frozenset()
    await asked(bench, await bench.load("bad"))
    assert bench.revision.adapters.lost == {}


async def test_a_worker_that_cannot_load_fails_only_who_waits() -> None:
    """A control message that fails is no end: those who wait come back, later ones are served."""
    bench = await fakes.started()
    bench.process.refuse = errors.Temporary("no memory")
    content = bench.declare("a")
    with pytest.raises(errors.NotReady):
        await bench.call(1, by=content)
    bench.process.refuse = None
    await asked(bench, content)


async def test_adapters_of_requests_never_evict_declared_ones() -> None:
    """Adapters that came with calls have places of their own, and evict each other only."""
    bench = await fakes.started()
    room_for(bench, 2)
    for name in "ab":
        await bench.load(name)
    count = residency.INLINE_ADAPTERS + 10
    for number in range(count):
        await asked(bench, slots.Content(f"i{number}", Path("/i"), inline=True))
    inline = held(bench) - {"a", "b"}
    assert {"a", "b"} <= held(bench)
    assert len(inline) == residency.INLINE_ADAPTERS
    assert f"i{count - 1}" in inline


async def test_less_memory_evicts_and_more_loads_again() -> None:
    """`adapterMemory` may change while the revision serves."""
    bench = await fakes.started()
    for name in "abcd":
        await bench.load(name)
    room_for(bench, 2)
    await fakes.turn()
    assert held(bench) == {"c", "d"}
    room_for(bench, 10)
    await bench.revision.adapters.settled()
    assert held(bench) == {"a", "b", "c", "d"}


async def test_a_closing_revision_answers_who_waits_for_an_adapter() -> None:
    """A swap fails no call that found the old revision and waits for its adapter there."""
    bench, process = await slow()
    call = bench.call(1, by=slots.Content("a", Path("/a")))
    await fakes.turn()
    closing = asyncio.ensure_future(bench.revision.close())
    await fakes.turn()
    process.gate.set()
    await fakes.until(lambda: bool(process.running))
    process.finish(0)
    assert (await call).vectors[0][0, 0] == 1
    del call
    await closing


async def test_a_closing_revision_does_not_wait_for_its_own_adapters() -> None:
    """Only callers keep a revision open, not what lies in its memory; late ones are answered."""
    bench = await fakes.started()
    content = await bench.load("a")
    late = bench.revision.base
    closing = asyncio.ensure_future(bench.revision.close())
    await fakes.turn()
    assert not closing.done()
    call = bench.call(1, by=content)
    await fakes.until(lambda: bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 1
    del call, late
    async with asyncio.timeout(5):
        await closing
    assert bench.process.lost


async def test_nobody_waits_for_a_batch_of_a_closed_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An adapter that is loaded at the very end of the grace is no reason to wait for ever."""
    monkeypatch.setattr(revision, "DRAIN_GRACE_S", 0.0)
    bench = await fakes.started()
    load = bench.revision.adapters._load_group

    async def load_and_close(group: Any) -> None:
        await load(group)
        await bench.revision.close()

    bench.revision.adapters._load_group = load_and_close  # type: ignore[method-assign]
    with pytest.raises(errors.NotReady):
        async with asyncio.timeout(5):
            await bench.call(1, by=slots.Content("a", Path("/a")))


async def test_nobody_waits_for_an_adapter_of_a_closed_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever still waits when the grace is over is told to come back."""
    monkeypatch.setattr(revision, "DRAIN_GRACE_S", 0.0)
    bench, process = await slow()
    call = bench.call(1, by=slots.Content("a", Path("/a")))
    await fakes.turn()
    await bench.revision.close()
    with pytest.raises(errors.NotReady):
        await call
    process.gate.set()
    await bench.revision.adapters.settled()


def test_usable_memory_is_the_cgroup_limit(tmp_path: Path) -> None:
    """In a container of 1 GiB adapters may take a quarter of that, whatever the host has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.usable_bytes(tmp_path) == physical
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.usable_bytes(tmp_path) == physical
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert memory.usable_bytes(tmp_path) == 2**30
