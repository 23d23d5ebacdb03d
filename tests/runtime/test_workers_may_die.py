"""A worker that fails, lies or dies costs no row that another run can save."""

import asyncio
import struct
from typing import Any

import numpy as np
import pytest

from bertd import errors, frames
from bertd.batching import policy
from bertd.runtime import revision, slots
from tests.runtime import fakes


async def test_rows_of_a_dead_worker_run_again() -> None:
    """A worker that dies with rows in flight is replaced and its rows are answered."""
    bench = await fakes.started()
    calls = [bench.call(1)]
    await fakes.turn()
    calls += [bench.call(2), bench.call(3)]
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    while bench.process.running:
        bench.process.finish(0)
        await fakes.turn()
    assert [(await call).vectors[0][0, 0] for call in calls] == [1, 2, 3]
    assert bench.counter("bertd_worker_restarts_total", model="m") == 1


async def test_adapters_are_there_again_after_a_restart() -> None:
    """The new worker holds every adapter in the slot that queued rows name."""
    bench = await fakes.started()
    content = await bench.load("a")
    slot = bench.slot("a")
    call = bench.call(5, by=content)
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    assert bench.process.loaded == {slot: "a"}
    bench.process.finish(0)
    assert (await call).vectors[0].tolist() == [[5.0, float(slot)]]


async def test_an_input_that_kills_workers_is_found_and_refused() -> None:
    """The row that kills every worker is refused as poison; its batch mates are answered (D6)."""
    bench = await fakes.started()
    first = bench.call(0)
    await fakes.turn()
    mates = [bench.call(1), bench.call(666), bench.call(2)]
    await fakes.turn()
    bench.process.finish(0)
    await first
    runs = 0
    while not all(task.done() for task in mates):
        await fakes.until(lambda: bool(bench.process.running) or all(t.done() for t in mates))
        if bench.process.running:
            runs += 1
            poisoned = 666 in bench.process.running[0].ids_T
            bench.process.die() if poisoned else bench.process.finish(0)
            await fakes.turn()
    assert (await mates[0]).vectors[0][0, 0] == 1
    assert (await mates[2]).vectors[0][0, 0] == 2
    with pytest.raises(errors.Poison):
        await mates[1]
    assert runs <= 4  # together, then each alone


async def test_a_lone_row_survives_one_death() -> None:
    """A row that ran alone when its worker was killed runs once more: the kill may be no fault."""
    bench = await fakes.started()
    call = bench.call(1)
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 1


@pytest.mark.parametrize("how", ["raises", "answers too little"])
async def test_a_failing_batch_fails_only_the_bad_row(how: str) -> None:
    """A worker raises or answers short: no hang, only the bad row fails, few extra runs (D6)."""
    bench = await fakes.started()
    first = bench.call(0)
    await fakes.turn()
    mates = [bench.call(1), bench.call(13), bench.call(2)]
    await fakes.turn()
    bench.process.finish(0)
    await first
    runs = 0
    while bench.process.running:
        runs += 1
        if 13 not in bench.process.running[0].ids_T:
            bench.process.finish(0)
        elif how == "raises":
            bench.process.fail(0)
        else:
            bench.process.finish(0, rows=0)
        await fakes.turn()
    assert (await mates[0]).vectors[0][0, 0] == 1
    assert (await mates[2]).vectors[0][0, 0] == 2
    with pytest.raises(errors.Bug):
        await mates[1]
    assert runs == 4


async def test_a_closing_revision_answers_whoever_found_it() -> None:
    """Retiring a revision waits for calls that run and for callers still tokenising, then refuses.

    A swap fails no call that found the old revision just before it (checklist 46).
    """
    bench = await fakes.started()
    base = bench.revision.base
    call = bench.call(1)
    await fakes.turn()
    closing = asyncio.ensure_future(bench.revision.close())
    await fakes.turn()
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 1
    late = bench.call(2, by=base)
    del base
    await fakes.turn()
    bench.process.finish(0)
    assert (await late).vectors[0][0, 0] == 2
    del late
    await closing
    assert bench.process.lost
    with pytest.raises(errors.NotReady):
        await bench.call(3, by=slots.Entry(0))


async def test_a_worker_that_dies_while_draining_is_replaced() -> None:
    """Rows of a closing revision survive its worker's death like any others."""
    bench = await fakes.started()
    call = bench.call(1)
    await fakes.turn()
    closing = asyncio.ensure_future(bench.revision.close())
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 1
    del call
    await closing
    assert all(worker.lost for worker in bench.workers)


async def test_a_revision_closes_while_its_worker_restarts() -> None:
    """Closing ends a worker that is only just coming up; nothing is left running."""
    bench = await fakes.started()
    slow = asyncio.Event()

    class Slow(fakes.FakeWorker):
        async def control(self, *args: Any, **fields: Any) -> dict[str, Any]:
            await slow.wait()
            return {}

    bench.use(Slow)
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2)
    await bench.revision.close()
    assert bench.process.lost
    assert not bench.revision.serving


async def test_only_the_row_that_ran_alone_is_blamed() -> None:
    """With two lanes, suspects still run one at a time: no batch mate is taken for poison (D6)."""
    bench = await fakes.started(lanes=2)
    busy = [bench.call(0), bench.call(0)]
    await fakes.turn()
    mates = [bench.call(1), bench.call(666), bench.call(2)]
    await fakes.turn()
    bench.process.finish(0)
    await fakes.turn()
    while not all(task.done() for task in mates):
        await fakes.until(lambda: bool(bench.process.running) or all(t.done() for t in mates))
        running = bench.process.running
        if any(666 in batch.ids_T for batch in running.values()):
            bench.process.die()
        elif running:
            bench.process.finish(next(iter(running)))
        await fakes.turn()
    assert [(await mates[n]).vectors[0][0, 0] for n in (0, 2)] == [1, 2]
    with pytest.raises(errors.Poison):
        await mates[1]
    await asyncio.gather(*busy)


async def test_a_suspect_behind_an_expired_row_waits_too() -> None:
    """A suspect runs before all others and alone; an expired row changes nothing about that."""
    bench = await fakes.started(lanes=2, limits=policy.Limits(max_tokens=4, max_rows=1))
    suspect = bench.call(666, deadline_s=5)
    await fakes.turn()
    bench.process.die()
    other = bench.call(1, deadline_s=4)
    late = bench.call(2, deadline_s=4.5)
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    assert [b.ids_T[0] for b in bench.process.running.values()] == [666]
    expiring = bench.call(3, deadline_s=0.1)
    bench.clock.now_s += 1
    bench.device.pump()
    await fakes.turn()
    assert [b.ids_T[0] for b in bench.process.running.values()] == [666]
    bench.process.finish(next(iter(bench.process.running)))
    await fakes.turn()
    assert [b.ids_T[0] for b in bench.process.running.values()] == [1, 2]
    for _ in range(2):
        bench.process.finish(next(iter(bench.process.running)))
        await fakes.turn()
    await asyncio.gather(suspect, other, late)
    with pytest.raises(errors.Expired):
        await expiring


async def test_a_result_that_cannot_be_read_loses_no_row() -> None:
    """A corrupt result raises, which ends the worker; the rows run again and the permit is back."""
    bench = await fakes.started()
    call = bench.call(1)
    await fakes.turn()
    result = frames.Result(id=0, seconds=0.1, vectors=[np.zeros(2, np.float32)])
    whole = memoryview(frames.encode_result(result))
    header, body = frames.decode_header(whole), bytearray(whole[frames.HEADER.size :])
    # Fifty rows of two values each, of which two are there.
    struct.pack_into("<i", body, frames.SPENT.size, 50)
    with pytest.raises(errors.Bug, match="not a result"):
        bench.revision.on_result(0, header, memoryview(body))
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    bench.process.finish(0)
    assert (await call).vectors[0][0, 0] == 1
    bench.call(2)
    await fakes.turn()
    assert bench.process.running


async def test_a_worker_that_dies_after_its_last_reply_never_serves() -> None:
    """A death between the last reply of a start and the start's end is not missed."""
    bench = fakes.Bench()

    class Dies(fakes.FakeWorker):
        async def control(self, *args: Any, **fields: Any) -> dict[str, Any]:
            self.die()
            return {}

    bench.use(Dies)
    with pytest.raises(errors.Temporary, match="while starting"):
        await bench.revision.start()
    assert not bench.revision.serving


async def test_a_restart_outlives_any_failure_of_its_own() -> None:
    """Whatever goes wrong while a worker is replaced, the next attempt follows."""
    bench = await fakes.started()
    troubles: list[Exception] = [RuntimeError("boom"), errors.Temporary("no memory")]

    class Troubled(fakes.FakeWorker):
        async def control(self, *args: Any, **fields: Any) -> dict[str, Any]:
            if troubles:
                raise troubles.pop()
            return await super().control(*args, **fields)

    bench.use(Troubled)
    bench.process.die()
    await fakes.until(lambda: bench.revision.serving)
    assert len(bench.workers) == 4


async def test_one_broken_adapter_does_not_keep_a_restart_down() -> None:
    """Rows of an adapter that cannot be loaded again come back later; all others are answered."""
    bench = await fakes.started()
    good, bad = await bench.load("good"), await bench.load("bad")
    busy = bench.call(0)
    await fakes.turn()
    calls = [bench.call(1, by=bad), bench.call(2, by=good)]
    await fakes.turn()

    class Picky(fakes.FakeWorker):
        spoilt = frozenset({"bad"})

    bench.use(Picky)
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    with pytest.raises(errors.NotReady):
        await calls[0]
    while bench.process.running:
        bench.process.finish(0)
        await fakes.turn()
    assert (await calls[1]).vectors[0][0, 0] == 2
    await busy
    assert set(bench.revision.adapters.lost) == {"bad"}


async def test_a_base_that_the_worker_refuses_never_serves() -> None:
    """A start that fails raises its reason and leaves nothing running."""
    bench = fakes.Bench()

    async def refuse(lanes: int, listener: object) -> fakes.FakeWorker:
        broken = fakes.FakeWorker(bench.revision)
        broken.refuse = errors.BadArtifact("no such shape", reason="WrongShape")
        bench.workers.append(broken)
        return broken

    bench.revision._spawn = refuse
    with pytest.raises(errors.BadArtifact, match="no such shape"):
        await bench.revision.start()
    assert bench.process.lost
    assert not bench.revision.serving


@pytest.mark.parametrize(("attempt", "delay_s"), [(0, 0.0), (1, 0.1), (2, 0.2), (5, 1.6), (99, 30)])
def test_restarts_back_off(attempt: int, delay_s: float) -> None:
    """The first replacement starts at once, later ones wait twice as long each, up to 30 s."""
    assert revision.restart_delay_s(attempt) == pytest.approx(delay_s)


async def test_a_crash_loop_backs_off_and_a_useful_worker_is_replaced_at_once() -> None:
    """Workers that die having answered nothing are replaced ever later; others, at once."""
    bench = await fakes.started()
    for crashes in (1, 2, 3):
        await fakes.until(lambda: bench.revision.serving)
        bench.process.die()
        await fakes.until(lambda crashes=crashes: bench.revision._crashes == crashes)
    await fakes.until(lambda: bench.revision.serving)
    call = bench.call(1)
    await fakes.turn()
    bench.process.finish(0)
    await call
    assert bench.revision._crashes == 0
    for _ in range(2):
        bench.clock.now_s += revision.STABLE_S
        bench.process.die()
        await fakes.until(lambda: bench.revision.serving)
        assert bench.revision._crashes == 1
