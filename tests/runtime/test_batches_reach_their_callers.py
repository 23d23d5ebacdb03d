"""Rows of many callers share batches, and every caller gets exactly its own answers."""

import asyncio

import pytest

from bertd import errors
from bertd.batching import policy
from bertd.runtime import gate
from tests.runtime import fakes


async def test_an_idle_lane_starts_at_once() -> None:
    """A single call on an idle lane runs alone, immediately (D1)."""
    bench = await fakes.started()
    call = bench.call(7)
    await fakes.turn()
    assert bench.process.running[0].lengths_B.tolist() == [4]
    bench.process.finish(0)
    ran = await call
    assert ran.vectors[0].tolist() == [[7.0, 0.0]]
    assert bench.counter("bertd_batch_rows_count", model="m") == 1
    assert bench.counter("bertd_batch_rows_sum", model="m") == 1


async def test_a_hundred_callers_share_batches_of_ten() -> None:
    """100 concurrent calls with maxRows 10 give at least 10 batches, none larger, in order (D2)."""
    bench = await fakes.started()
    tasks = [bench.call(token) for token in range(100)]
    await fakes.turn()
    batches = []
    while bench.process.running:
        batches.append(bench.process.finish(0))
        await fakes.turn()
    answers = [(await task).vectors[0][0, 0] for task in tasks]
    assert answers == [float(token) for token in range(100)]
    assert len(batches) >= 10
    assert max(len(done.lengths_B) for done in batches) <= 10
    order = [int(first) for done in batches for first in done.ids_T[::4]]
    assert order == sorted(order)


async def test_max_delay_waits_for_company_but_no_longer() -> None:
    """With maxDelay 20 ms eight arrivals are one batch; without it the first runs alone (D4)."""
    patient = await fakes.started(
        limits=policy.Limits(max_tokens=100, max_rows=8, max_delay_s=0.02)
    )
    for token in range(8):
        patient.call(token)
        await fakes.turn()
        patient.clock.now_s += 0.001
    await fakes.turn()
    assert len(patient.process.running[0].lengths_B) == 8
    eager = await fakes.started()
    for token in range(8):
        eager.call(token)
        await fakes.turn()
    assert len(eager.process.running[0].lengths_B) == 1


async def test_a_waiting_batch_starts_when_its_delay_is_over() -> None:
    """A lone row with maxDelay starts when the delay has passed, by the dispatcher's own timer."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=100, max_rows=8, max_delay_s=0.005))
    bench.call(1)
    await fakes.turn()
    assert not bench.process.running
    bench.clock.now_s += 0.006
    await fakes.until(lambda: bool(bench.process.running))


async def test_permits_are_shared_by_all_revisions() -> None:
    """Two models on one lane never run two batches at once; the urgent one is first."""
    bench = await fakes.started()
    other = bench.another("n")
    await other.start()
    first, second = bench.workers
    bench.call(1, deadline_s=9)
    await fakes.turn()
    bench.call(2, deadline_s=8)
    bench.call(3, deadline_s=5, target=other)
    await fakes.turn()
    assert (len(first.running), len(second.running)) == (1, 0)
    first.finish(0)
    await fakes.turn()
    assert (len(first.running), len(second.running)) == (0, 1)


async def test_a_backlog_is_split_over_idle_lanes() -> None:
    """A large call is shared by two idle lanes instead of filling one."""
    limits = policy.Limits(max_tokens=4096, max_rows=256)
    bench = await fakes.started(lanes=2, limits=limits)
    bench.call(*range(100))
    await fakes.turn()
    sizes = [len(running.lengths_B) for running in bench.process.running.values()]
    assert len(sizes) == 2
    assert sum(sizes) >= 90
    assert min(sizes) >= 30


async def test_the_earliest_deadline_runs_first() -> None:
    """While a lane is busy, later but more urgent rows overtake."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=4, max_rows=1))
    bench.call(1)
    await fakes.turn()
    bench.call(2, deadline_s=9)
    bench.call(3, deadline_s=3)
    await fakes.turn()
    bench.process.finish(0)
    await fakes.turn()
    assert bench.process.running[0].ids_T[0] == 3


async def test_expired_rows_never_run() -> None:
    """A row whose deadline passed in the queue is Expired and never sent (checklist 56)."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=4, max_rows=1))
    bench.call(1)
    await fakes.turn()
    late = bench.call(2, deadline_s=1)
    good = bench.call(3, deadline_s=9)
    await fakes.turn()
    bench.clock.now_s += 2
    bench.process.finish(0)
    await fakes.turn()
    with pytest.raises(errors.Expired):
        await late
    assert bench.process.running[0].ids_T[0] == 3
    assert bench.counter("bertd_expired_total", model="m") == 1
    bench.process.finish(0)
    await good


async def test_a_deadline_in_the_past_is_refused_at_once() -> None:
    """A call whose deadline already passed is refused without being queued."""
    bench = await fakes.started()
    with pytest.raises(errors.Expired):
        await bench.call(1, deadline_s=-1)
    assert not bench.process.running


async def test_a_cancelled_caller_frees_its_place_and_hurts_nobody() -> None:
    """Cancelling queued and running calls leaves the others answered and the queue empty (D5)."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=8, max_rows=2))
    running, mate = bench.call(1), bench.call(2)
    await fakes.turn()
    bench.process.finish(0)  # the first alone: an idle lane did not wait
    await running
    assert bench.process.running[0].ids_T[0] == 2
    queued = bench.call(3)
    await fakes.turn()
    queued.cancel()
    mate.cancel()
    await fakes.turn()
    assert bench.counter("bertd_queue_rows", model="m") == 0
    bench.process.finish(0)
    after = bench.call(4)
    await fakes.turn()
    bench.process.finish(0)
    assert (await after).vectors[0][0, 0] == 4
    for cancelled in (queued, mate):
        with pytest.raises(asyncio.CancelledError):
            await cancelled


async def test_a_predicted_wait_above_the_limit_is_refused_at_once() -> None:
    """When the measured cost says that a row would wait too long, it is refused with that time."""
    bench = await fakes.started()
    bench.call(0)
    await fakes.turn()
    bench.process.finish(0)  # a batch takes 1 ms
    tight = gate.Limits(batch=fakes.LIMITS, max_queue_delay_s=0.0015)
    bench.revision.set_limits(tight, fakes.ROOM_BYTES)
    for token in range(12):
        bench.call(token)
    await fakes.turn()
    with pytest.raises(errors.Overloaded) as refusal:
        await bench.call(99)
    assert refusal.value.retry_after_s > 0.0015
    assert bench.counter("bertd_shed_total", model="m", reason="QueueDelay") >= 1


async def test_the_queue_is_bounded() -> None:
    """Calls beyond the queue's bound are refused, whole; what was admitted is answered."""
    bench = await fakes.started()
    first = bench.call(1, length=100)
    await fakes.turn()
    large = [bench.call(*range(100), length=60_000, deadline_s=60) for _ in range(2)]
    await fakes.turn()
    with pytest.raises(errors.Overloaded):
        await bench.call(*range(100), length=60_000)
    assert bench.counter("bertd_shed_total", model="m", reason="QueueFull") == 100
    bench.process.finish(0)
    await first
    for task in large:
        task.cancel()
