"""A lane is sent its next batch just before it needs it: no earlier, no more, and no harm done."""

import asyncio

import pytest

from bertd import errors
from bertd.batching import policy
from bertd.runtime import dispatcher
from tests.runtime import fakes

BATCH_S = 0.02
ONE_ROW = policy.Limits(max_tokens=100, max_rows=1)


async def busy(
    limits: policy.Limits = ONE_ROW, lanes: int = 1, seconds: float = BATCH_S
) -> tuple[fakes.Bench, "asyncio.Task[object]"]:
    """A bench whose lane has just begun a batch that is known to take so long, and its call."""
    bench = await fakes.started(lanes, limits)
    known = bench.call(0)
    await fakes.turn()
    bench.process.finish(*bench.process.running, seconds=seconds)
    await known
    running = bench.call(1)
    await fakes.turn()
    assert len(bench.process.running) == 1
    return bench, running


async def passes(bench: fakes.Bench, seconds: float) -> None:
    """Time passes after what was done before, and the dispatcher looks."""
    await fakes.turn()
    bench.clock.now_s += seconds
    bench.device.pump()
    await fakes.turn()


def firsts(batches: dict) -> list[int]:
    """The first token of the first row of each batch."""
    return [int(each.ids_T[0]) for each in batches.values()]


async def test_a_lane_is_sent_its_next_batch_just_before_it_needs_it() -> None:
    """Two milliseconds before the expected end the next batch is there, and not before."""
    bench, first = await busy()
    second = bench.call(2)
    await passes(bench, BATCH_S - 0.0025)
    assert not bench.process.ahead
    await passes(bench, 0.001)
    assert firsts(bench.process.ahead) == [2]
    bench.process.finish(0, seconds=BATCH_S)
    assert firsts(bench.process.running) == [2]
    assert [each.started_s for each in bench.device._leases] == [bench.clock()]
    bench.process.finish(0, seconds=BATCH_S)
    assert (await first).vectors[0][0, 0] == 1
    assert (await second).vectors[0][0, 0] == 2
    assert not bench.device._leases


async def test_the_dispatcher_wakes_by_itself_for_it() -> None:
    """Nobody has to come: a timer sends the next batch when it is time."""
    bench, _ = await busy(seconds=0.02)
    bench.call(2)
    await fakes.turn()
    bench.clock.now_s += 0.0185
    await fakes.until(lambda: bool(bench.process.ahead))


async def test_most_of_a_short_batch_runs_before_the_next_is_sent() -> None:
    """Of a batch of 4 ms, three quarters pass first: what comes meanwhile is still ordered."""
    bench, _ = await busy(seconds=0.004)
    bench.call(2)
    await passes(bench, 0.0029)
    assert not bench.process.ahead
    await passes(bench, 0.0002)
    assert bench.process.ahead


async def test_who_comes_before_that_is_still_ordered() -> None:
    """An urgent row that comes while the lane runs is in the batch that is sent ahead."""
    bench, _ = await busy()
    bench.call(2, deadline_s=9)
    await passes(bench, BATCH_S / 2)
    bench.call(3, deadline_s=2)
    await passes(bench, BATCH_S / 2)
    assert firsts(bench.process.ahead) == [3]


async def test_a_lane_knows_of_one_batch_more_at_most() -> None:
    """However often the dispatcher looks, the third batch waits until the first has ended."""
    bench, _ = await busy()
    for token in (2, 3, 4):
        bench.call(token)
    for _ in range(5):
        await passes(bench, BATCH_S / 5)
    assert firsts(bench.process.ahead) == [2]
    assert len(bench.revision._feeder._queue) == 2
    bench.process.finish(0, seconds=BATCH_S)
    await fakes.turn()
    assert (firsts(bench.process.running), firsts(bench.process.ahead)) == ([2], [])


async def test_a_lane_that_is_idle_comes_first() -> None:
    """While a lane is idle nothing is sent ahead to a busy one."""
    bench, _ = await busy(lanes=2)
    await passes(bench, BATCH_S)
    bench.call(2)
    await fakes.turn()
    assert not bench.process.ahead
    assert firsts(bench.process.running) == [1, 2]


async def test_an_overdue_lane_is_sent_nothing() -> None:
    """A lane that should have ended long ago may be stuck: rows wait where they can be moved."""
    bench, _ = await busy()
    overdue_s = max(dispatcher.OVERDUE_LEAST_S, dispatcher.OVERDUE_FACTOR * BATCH_S)
    bench.clock.now_s += overdue_s
    waiting = bench.call(2)
    await passes(bench, 0.001)
    assert not bench.process.ahead
    bench.process.finish(0, seconds=BATCH_S)
    await fakes.turn()
    bench.process.finish(0)
    assert (await waiting).vectors[0][0, 0] == 2


async def test_rows_that_were_sent_ahead_are_not_blamed_for_a_death() -> None:
    """They never ran: they run again together, while the one that ran is a suspect (D6)."""
    bench, first = await busy(policy.Limits(max_tokens=100, max_rows=2))
    mates = [bench.call(2), bench.call(3)]
    await passes(bench, BATCH_S)
    assert len(bench.process.ahead[0].lengths_B) == 2
    for deaths in (2, 3):
        bench.process.die()
        await fakes.until(
            lambda deaths=deaths: len(bench.workers) == deaths and bool(bench.process.running)
        )
        if deaths == 2:
            assert firsts(bench.process.running) == [1]
            assert len(bench.process.running[0].lengths_B) == 1
    with pytest.raises(errors.Poison):
        await first
    assert len(bench.process.running[0].lengths_B) == 2
    bench.process.finish(0)
    assert [(await mate).vectors[0][0, 0] for mate in mates] == [2, 3]
    assert not bench.device._leases


async def test_a_failed_batch_takes_the_one_behind_it_along() -> None:
    """A batch that fails is tried again after the one that its lane knew of already."""
    bench, first = await busy()
    second = bench.call(2)
    await passes(bench, BATCH_S)
    bench.process.fail(0)
    with pytest.raises(errors.Bug):
        await first
    assert firsts(bench.process.running) == [2]
    bench.process.finish(0)
    assert (await second).vectors[0][0, 0] == 2
    assert not bench.device._leases


async def test_callers_may_leave_what_was_sent_ahead() -> None:
    """Rows cancelled there hurt nobody: the batch ends, and its permit is free (D5)."""
    bench, first = await busy(policy.Limits(max_tokens=100, max_rows=2))
    mates = [bench.call(2), bench.call(3)]
    await passes(bench, BATCH_S)
    mates[0].cancel()
    first.cancel()
    await fakes.turn()
    for _ in range(2):
        bench.process.finish(0, seconds=BATCH_S)
    assert (await mates[1]).vectors[0][0, 0] == 3
    assert not bench.device._leases
    last = bench.call(4)
    await fakes.turn()
    bench.process.finish(0)
    assert (await last).vectors[0][0, 0] == 4


async def test_a_cancelled_row_that_was_sent_ahead_does_not_run_again() -> None:
    """After a death only those run again for whom somebody waits (checklist 56)."""
    bench, first = await busy(policy.Limits(max_tokens=100, max_rows=2))
    mates = [bench.call(2), bench.call(3)]
    await passes(bench, BATCH_S)
    for gone in (first, mates[0]):
        gone.cancel()
    await fakes.turn()
    bench.process.die()
    await fakes.until(lambda: len(bench.workers) == 2 and bool(bench.process.running))
    assert firsts(bench.process.running) == [3]
    assert len(bench.process.running[0].lengths_B) == 1


async def test_expired_rows_are_not_sent_ahead() -> None:
    """A row whose deadline is over by the time that the lane is free is refused, not run (D5)."""
    bench, _ = await busy()
    late = bench.call(2, deadline_s=BATCH_S + 0.2)
    good = bench.call(3, deadline_s=9)
    await fakes.turn()
    bench.clock.now_s += 0.35
    bench.process.finish(0, seconds=BATCH_S)
    with pytest.raises(errors.Expired):
        await late
    assert firsts(bench.process.running) == [3]
    bench.process.finish(0)
    await good
    assert bench.counter("bertd_expired_total", model="m") == 1


async def test_another_model_that_is_due_is_not_overtaken() -> None:
    """A lane is not filled ahead while a model that was given less waits for it (D16)."""
    long_s = 5 * dispatcher.QUANTUM_S
    bench, _ = await busy(seconds=long_s)
    other = bench.another("n")
    await other.start()
    bench.call(2)
    bench.call(3, target=other)
    await passes(bench, long_s)
    assert not bench.workers[0].ahead
    bench.workers[0].finish(0, seconds=long_s)
    await fakes.turn()
    assert firsts(bench.workers[1].running) == [3]
    assert not bench.workers[0].running


async def test_a_model_that_closes_takes_back_what_it_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Permits of batches that will not end come back, also those of batches sent ahead."""
    monkeypatch.setattr("bertd.runtime.revision.DRAIN_GRACE_S", 0.0)
    bench, first = await busy()
    other = bench.another("n")
    await other.start()
    second = bench.call(2)
    await passes(bench, BATCH_S)
    assert bench.workers[0].ahead
    first.cancel()
    second.cancel()
    await bench.revision.close()
    assert not bench.device._leases
    last = bench.call(3, target=other)
    await fakes.turn()
    bench.workers[1].finish(0)
    await last
