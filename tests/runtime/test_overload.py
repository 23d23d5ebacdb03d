"""Who cannot be answered in time is told at once and why, and nobody else notices."""

import asyncio
import gc

import pytest

from bertd import errors
from bertd.batching import policy
from bertd.runtime import feeder, gate
from tests.runtime import fakes

YEAR_S = 365 * 24 * 3600.0
ONE_ROW = policy.Limits(max_tokens=100, max_rows=1)


async def loaded(
    batch_s: float = 0.1, max_queue_delay_s: float = 60.0, limits: policy.Limits = ONE_ROW
) -> fakes.Bench:
    """A bench that knows what a batch takes, and whose lane has just begun one."""
    bench = await fakes.started(limits=limits)
    given = gate.Limits(batch=limits, max_queue_delay_s=max_queue_delay_s)
    bench.revision.set_limits(given, fakes.ROOM_BYTES)
    known = bench.call(0)
    await fakes.turn()
    bench.process.finish(0, seconds=batch_s)
    await known
    bench.call(1, deadline_s=YEAR_S)
    await fakes.turn()
    return bench


def shed(bench: fakes.Bench, reason: str) -> float:
    """Rows that were refused for a reason."""
    return bench.counter("bertd_shed_total", model="m", reason=reason)


async def test_a_wait_above_the_limit_is_refused_with_its_length() -> None:
    """`QueueDelay` counts every row, and says when it is worth to come again (checklist 67)."""
    bench = await loaded(batch_s=0.1, max_queue_delay_s=0.15)
    second = bench.call(2)
    await fakes.turn()
    with pytest.raises(errors.Overloaded, match="predicted wait") as refusal:
        await bench.call(3, 4, 5)
    assert refusal.value.retry_after_s == pytest.approx(0.2, rel=0.05)
    assert shed(bench, "QueueDelay") == 3
    assert len(bench.revision._feeder._queue) == 1
    second.cancel()


async def test_what_was_refused_is_refused_again_unread_until_something_changes() -> None:
    """The next call of the same flow is refused before it is encoded; another flow is looked at."""
    bench = await loaded(batch_s=0.1, max_queue_delay_s=0.15)
    own, other = feeder.Flow(), feeder.Flow("other")
    waiting = [bench.call(2)]
    await fakes.turn()
    bench.revision.check_open(1, own)
    with pytest.raises(errors.Overloaded):
        await bench.call(3)
    for _ in range(2):
        with pytest.raises(errors.Overloaded, match="predicted wait"):
            bench.revision.check_open(7, own)
    assert shed(bench, "QueueDelay") == 1 + 2 * 7
    assert bench.counter("bertd_rows_total", model="m", outcome="refused") == 1 + 2 * 7
    bench.revision.check_open(1, other)
    bench.process.finish(0, seconds=0.1)
    bench.revision.check_open(1, own)
    await fakes.turn()
    bench.process.finish(0, seconds=0.1)
    await asyncio.gather(*waiting)


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    """`Deadline` counts every row; the lane is not asked, the queue not touched."""
    bench = await loaded()
    with pytest.raises(errors.Overloaded, match="too late for the deadline") as refusal:
        await bench.call(2, 3, deadline_s=0.15)
    assert refusal.value.retry_after_s > 0
    assert shed(bench, "Deadline") == 2
    assert len(bench.revision._feeder._queue) == 0
    assert len(bench.process.running) == 1


async def test_nobody_is_let_in_at_the_cost_of_somebody() -> None:
    """An urgent call that would make an admitted one late is refused; a patient one is not."""
    bench = await loaded()
    admitted = bench.call(2, deadline_s=0.25)
    await fakes.turn()
    with pytest.raises(errors.Overloaded, match="admitted before"):
        await bench.call(3, deadline_s=0.24)
    patient = bench.call(4, deadline_s=9)
    await fakes.turn()
    assert not patient.done()
    for token in (1, 2):
        assert bench.process.running[0].ids_T[0] == token
        bench.clock.now_s += 0.1
        bench.process.finish(0, seconds=0.1)
        await fakes.turn()
    await admitted
    bench.process.finish(0, seconds=0.1)
    await patient


async def test_a_full_queue_refuses_at_once() -> None:
    """`QueueFull` counts every row of the call, none of which is queued (D10, checklist 67)."""
    bench = await loaded(batch_s=1e-6)
    queue = bench.revision._feeder._queue
    queue._max_bytes = 10_000
    many = [bench.call(token, length=100, deadline_s=YEAR_S) for token in range(6)]
    await fakes.turn()
    with pytest.raises(errors.Overloaded, match="full") as refusal:
        await bench.call(*range(4), length=100, deadline_s=YEAR_S)
    assert refusal.value.retry_after_s > 0
    assert shed(bench, "QueueFull") == 4
    assert len(queue) == 6
    for each in many:
        each.cancel()
    await asyncio.wait(many)
    assert len(queue) == 0


async def test_no_time_is_expired_and_a_year_is_answered() -> None:
    """A deadline of 0 is over before anything is queued; one in a year is just far (D5)."""
    bench = await loaded()
    with pytest.raises(errors.Expired):
        await bench.call(2, 3, deadline_s=0)
    assert bench.counter("bertd_expired_total", model="m") == 2
    far = bench.call(4, deadline_s=YEAR_S)
    await fakes.turn()
    for _ in range(2):
        bench.process.finish(0, seconds=0.1)
        await fakes.turn()
    assert (await far).vectors[0][0, 0] == 4


async def test_a_prediction_gone_wrong_shuts_nobody_out() -> None:
    """With nothing waiting and nothing running a call comes in whatever was measured before.

    So a machine that stood still when it was measured is measured anew, and soon all come in.
    """
    bench = await loaded(batch_s=50.0, max_queue_delay_s=0.5)
    bench.process.finish(0, seconds=50.0)
    for token in range(150):
        call = bench.call(token, deadline_s=1.0)
        await fakes.turn()
        bench.process.finish(0, seconds=0.001)
        assert (await call).vectors[0][0, 0] == token
    many = [bench.call(token, deadline_s=1.0) for token in range(5)]
    await fakes.turn()
    while bench.process.running:
        bench.process.finish(0, seconds=0.001)
        await fakes.turn()
    assert all(not each.exception() for each in many)


async def test_thousands_of_callers_vanish_mid_batch() -> None:
    """All that waits is freed at once, the next batch is of who is left, nothing leaks (D5)."""
    limits = policy.Limits(max_tokens=4096, max_rows=64)
    bench = await loaded(batch_s=0.001, limits=limits)
    many = [bench.call(token, deadline_s=YEAR_S) for token in range(3000)]
    await fakes.turn()
    stays = bench.call(7777, deadline_s=YEAR_S)
    await fakes.turn()
    bench.process.finish(0)  # the next batch runs, with rows of callers that go away
    queue = bench.revision._feeder._queue
    assert len(queue) == 3001 - len(bench.process.running[0].lengths_B)
    for each in many:
        each.cancel()
    await asyncio.wait(many)
    assert (len(queue), queue.tokens) == (1, 4)
    bench.process.finish(0)
    assert bench.process.running[0].ids_T.tolist() == [7777] * 4
    bench.process.finish(0)
    assert (await stays).vectors[0][0, 0] == 7777
    assert not bench.process.running
    assert len(queue) == queue._bytes == 0
    assert not bench.device._leases


async def test_a_call_that_failed_leaves_no_rows_behind() -> None:
    """When one row of a call fails, its others are not computed: nobody waits for them (D6)."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=100, max_rows=2))
    first = bench.call(0)
    await fakes.turn()
    call = bench.call(*range(1, 9))
    other = bench.call(99)
    await fakes.turn()
    bench.process.finish(0)
    await first
    bench.process.fail(0)  # rows 1 and 2 are tried again, each alone
    await fakes.turn()
    while not call.done():
        bench.process.fail(0)
        await fakes.turn()
    assert isinstance(call.exception(), errors.Bug)
    ran = []
    while bench.process.running:
        ran += bench.process.finish(0).ids_T[::4].tolist()
        await fakes.turn()
    assert (await other).vectors[0][0, 0] == 99
    assert len(set(ran) - {99}) <= 1  # what was sent before the caller could know


async def test_a_call_of_any_end_lets_go_of_its_rows() -> None:
    """Rows, callers and slots of refused, expired and cancelled calls are freed, without a GC."""
    bench = await loaded()
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, policy.Row) for each in gc.get_objects())
        for _ in range(20):
            for deadline_s in (0.0, 0.15):
                with pytest.raises(errors.Error):
                    await bench.call(2, 3, deadline_s=deadline_s)
            gone = bench.call(4)
            await fakes.turn()
            gone.cancel()
            await asyncio.wait((gone,))
        del gone
        after = sum(isinstance(each, policy.Row) for each in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before + 2
