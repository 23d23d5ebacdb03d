"""Models that share a device share its lanes: by time, and whatever one of them does."""

import asyncio
from typing import Any

import pytest

from bertd import errors
from bertd.batching import policy
from bertd.runtime import dispatcher, feeder, revision
from tests.runtime import fakes

HOUR_S = 3600.0


class Two:
    """Two models on one lane: what their batches take, and what they were given."""

    def __init__(self, bench: fakes.Bench, other: revision.Revision) -> None:
        self.bench = bench
        self.revisions = (bench.revision, other)
        self.given_s = [0.0, 0.0]
        self.calls: list[asyncio.Task[Any]] = []

    @classmethod
    async def started(cls, max_rows: int = 10) -> "Two":
        bench = await fakes.started(limits=policy.Limits(max_tokens=4096, max_rows=max_rows))
        other = bench.another("n", policy.Limits(max_tokens=4096, max_rows=max_rows))
        await other.start()
        return cls(bench, other)

    def call(self, which: int, rows: int, deadline_s: float = 1e6) -> asyncio.Task[Any]:
        """One of them is called."""
        made = self.bench.call(*[1] * rows, target=self.revisions[which], deadline_s=deadline_s)
        self.calls.append(made)
        return made

    @property
    def running(self) -> list[int]:
        """Who runs a batch."""
        return [which for which in (0, 1) if self.bench.workers[which].running]

    async def end(self, which: int, seconds: float) -> None:
        """A batch of one of them ends after so long."""
        self.bench.clock.now_s += seconds
        self.given_s[which] += seconds
        self.bench.workers[which].finish(0, seconds=seconds)
        await fakes.turn()

    async def close(self) -> None:
        """Ends whatever still waits."""
        for each in self.calls:
            each.cancel()
        await asyncio.wait(self.calls)


@pytest.mark.parametrize("seconds", [(0.05, 0.05), (0.2, 0.01), (0.01, 0.3), (0.004, 0.005)])
async def test_models_get_equal_lane_time(seconds: tuple[float, float]) -> None:
    """A model with ten times the demand gets no more lane time than another that waits too (D16).

    At any time they differ by two batches and a quantum at most, however long their batches are.
    """
    two = await Two.started(max_rows=4)
    for _ in range(150):
        for which, rows in ((0, 40), (1, 4)):
            if len(two.revisions[which]._feeder._queue) < rows:
                two.call(which, rows)
        await fakes.turn()
        [which] = two.running
        await two.end(which, seconds[which])
        differ_s = abs(two.given_s[0] - two.given_s[1])
        assert differ_s <= 2 * max(seconds) + dispatcher.QUANTUM_S + 1e-9
    await two.close()


async def test_a_stalled_model_does_not_keep_the_lane() -> None:
    """A batch that should have ended long ago lends its lane to another model (D16).

    The other waits a bounded time, and when the stall ends every permit is where it was.
    """
    two = await Two.started()
    stalled = two.call(0, 1)
    await fakes.turn()
    waiting = two.call(1, 1)
    await fakes.turn()
    assert two.running == [0]
    two.bench.clock.now_s += dispatcher.OVERDUE_LEAST_S - 0.001
    two.bench.device.pump()
    assert two.running == [0]
    two.bench.clock.now_s += 0.002
    two.bench.device.pump()
    assert two.running == [0, 1]
    await two.end(1, 0.001)
    await waiting
    for _ in range(3):  # and so on, at full speed, while the stall lasts
        waiting = two.call(1, 1)
        await fakes.turn()
        assert two.running == [0, 1]
        await two.end(1, 0.001)
        await waiting
    await two.end(0, 30.0)
    await stalled
    assert not two.bench.device._leases
    both = [two.call(which, 1) for which in (0, 1)]
    await fakes.turn()
    assert len(two.running) == 1
    for _ in both:
        await two.end(*two.running, 0.001)
    await asyncio.gather(*both)


async def test_a_lane_is_lent_by_a_timer() -> None:
    """Nobody has to come for a lane to be lent: the dispatcher wakes when it is overdue."""
    two = await Two.started()
    two.call(0, 1)
    await fakes.turn()
    two.call(1, 1)
    await fakes.turn()
    two.bench.clock.now_s += dispatcher.OVERDUE_LEAST_S
    await fakes.until(lambda: two.running == [0, 1])
    await two.close()


async def test_what_was_lent_does_not_come_back_twice() -> None:
    """When the stall ends while the lane is lent, nothing starts until the lane is free."""
    two = await Two.started()
    two.call(0, 1)
    await fakes.turn()
    two.call(1, 1)
    two.bench.clock.now_s += dispatcher.OVERDUE_LEAST_S
    two.bench.device.pump()
    await fakes.turn()
    two.bench.device.pump()
    assert two.running == [0, 1]
    two.call(0, 1)
    await two.end(0, 0.001)
    assert two.running == [1]
    await two.end(1, 0.001)
    assert two.running == [0]
    await two.end(0, 0.001)
    assert not two.bench.device._leases


@pytest.mark.parametrize("seconds", [60.0, HOUR_S])
async def test_a_stall_is_not_paid_for_afterwards(seconds: float) -> None:
    """A model that stood still, or a clock that jumped, owes nobody hours of lane time."""
    two = await Two.started(max_rows=1)
    two.call(0, 1)
    await fakes.turn()
    for which in (0, 1):
        two.call(which, 60)
    await fakes.turn()
    await two.end(0, seconds)
    assert two.running == [1]
    for _ in range(40):
        await two.end(*two.running, 0.02)
        if two.running == [0]:
            break
    assert two.running == [0]
    await two.close()


async def test_a_clock_that_jumps_expires_what_waits_and_nothing_else() -> None:
    """After a jump of an hour waiting calls are over, and the next are answered as ever (D5)."""
    two = await Two.started(max_rows=1)
    running = two.call(0, 1, deadline_s=10)
    await fakes.turn()
    waiting = [two.call(which, 1, deadline_s=10) for which in (0, 1)]
    patient = two.call(0, 1, deadline_s=2 * HOUR_S)
    await fakes.turn()
    two.bench.clock.now_s += HOUR_S
    two.bench.device.pump()
    await two.end(0, 0.001)
    for late in waiting:
        with pytest.raises(errors.Expired):
            await late
    await running
    while two.running:
        await two.end(two.running[0], 0.001)
    await patient
    assert two.bench.counter("bertd_expired_total", model="m") == 1
    assert two.bench.counter("bertd_expired_total", model="n") == 1
    for which in (0, 1, 0):
        call = two.call(which, 1, deadline_s=10)
        await fakes.turn()
        await two.end(which, 0.001)
        await call


async def test_a_model_that_is_down_does_not_keep_the_lane() -> None:
    """While the worker of one restarts, its rows wait and the other runs (D16)."""
    two = await Two.started()
    two.bench.use(Slow)
    lost = two.call(0, 1)
    await fakes.turn()
    two.bench.workers[0].die()
    for _ in range(3):
        call = two.call(1, 1)
        await fakes.turn()
        assert two.running == [1]
        await two.end(1, 0.01)
        await call
    assert not lost.done()
    await two.close()


class Slow(fakes.FakeWorker):
    """A worker that never comes up."""

    async def control(
        self, operation: str, timeout_s: float = 0.0, **fields: Any
    ) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}


# Flows inside a model.


@pytest.mark.parametrize("greedy", [100, 1000])
async def test_a_flow_at_ten_times_its_share_delays_others_by_a_batch(greedy: int) -> None:
    """Whoever wants little is in the next batch, whatever another adapter has queued."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=400, max_rows=10))
    flood = bench.call(*range(greedy), flow=feeder.Flow("greedy"), deadline_s=1e6)
    await fakes.turn()
    for _ in range(8):
        bench.process.finish(0, seconds=0.01)
        await fakes.turn()
    for token in range(20):
        modest = bench.call(7000 + token, flow=feeder.Flow("modest"), deadline_s=1e6)
        await fakes.turn()
        batches = 0
        while bench.process.running and not modest.done():
            bench.process.finish(0, seconds=0.01)
            batches += 1
            await fakes.turn()
        assert batches <= 2  # the one that ran, and the next
    flood.cancel()


async def test_a_low_priority_waits_and_does_not_starve() -> None:
    """HIGH overtakes NORMAL and LOW of the same adapter, and LOW still comes to its turn."""
    bench = await fakes.started(limits=policy.Limits(max_tokens=400, max_rows=1))
    flow = feeder.Flow("a")
    bench.call(0)
    await fakes.turn()
    low = bench.call(1, flow=flow.at(1 / 16), deadline_s=1e6)
    others = [
        bench.call(*[2] * 700, flow=flow.at(16.0), deadline_s=1e6),
        bench.call(*[3] * 700, flow=flow, deadline_s=1e6),
    ]
    await fakes.turn()
    ran: list[int] = []
    while not low.done():
        ran += [int(bench.process.finish(0, seconds=0.001).ids_T[0])]
        await asyncio.sleep(0)
    low.cancel()
    assert len(ran) <= 700
    later = bench.call(1, flow=flow.at(1 / 16), deadline_s=1e6)
    await asyncio.sleep(0)
    ran.clear()
    while not later.done():
        ran += [int(bench.process.finish(0, seconds=0.001).ids_T[0])]
        await asyncio.sleep(0)
    assert ran.count(2) > 2 * ran.count(3)
    for each in others:
        each.cancel()
    await asyncio.wait(others)
