"""Whatever happens, what was received is answered, refused, expired, cancelled or failed: once."""

import asyncio
from collections import Counter

import pytest

from bertd import errors, metrics
from bertd.runtime import revision
from tests.runtime import fakes
from tests.runtime.test_permits_are_never_lost import World

STEPS = 80


class Counted(World):
    """A world in which no revision is closed, and every call's end is known."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rows: dict[asyncio.Task, int] = {}
        self.too_late = 0  # rows of calls whose time was over when they came

    async def step(self) -> None:
        """One thing that may happen."""
        busy = [(w, lane) for w in self.workers for lane in w.running]
        what = self.random.random()
        if what < 0.5:
            self.call()
        elif what < 0.78 and busy:
            worker, lane = self.random.choice(busy)
            seconds = self.random.choice((0.001, 0.02, 0.3))
            worker.finish(lane, seconds=seconds)
            self.bench.clock.now_s += seconds
        elif what < 0.81 and busy:
            worker, lane = self.random.choice(busy)
            self.random.choice((worker.fail, lambda of: worker.finish(of, rows=0)))(lane)
        elif what < 0.88 and self.calls:
            self.random.choice(self.calls).cancel()
        elif what < 0.96:
            self.bench.clock.now_s += self.random.choice((0.001, 0.05, 1.0, 7200.0))
            self.bench.device.pump()
        elif busy:
            self.random.choice(busy)[0].die()
        await fakes.turn()

    def call(self) -> None:
        """A call of a few rows, without time, with some, or with a year."""
        rows = self.random.randint(1, 6)
        deadline_s = self.random.choice((0.0, 0.05, 0.5, 3.0, 3e7))
        self.too_late += rows * (deadline_s == 0)
        made = self.bench.call(
            *[1] * rows,
            length=self.random.choice((4, 60, 200)),
            target=self.random.choice(self.revisions),
            deadline_s=deadline_s,
        )
        self.calls.append(made)
        self.rows[made] = rows

    async def end(self) -> None:
        """Answers whatever runs until nothing does and nobody waits."""
        for _ in range(2000):
            for worker in self.workers:
                for lane in list(worker.running):
                    worker.finish(lane)
            await fakes.turn()
            if not self.held() and all(each.done() for each in self.calls):
                return
            if not self.held():
                await asyncio.sleep(0.001)  # a worker comes up

    def counted(self, name: str, **labels: str) -> int:
        """A counter, over both models."""
        return int(sum(self.bench.counter(name, model=model, **labels) for model in "mn"))

    def ended(self) -> Counter[str]:
        """Rows by what their callers were told."""
        found: Counter[str] = Counter()
        for call, rows in self.rows.items():
            found[_told(call)] += rows
        return found

    def account(self) -> None:
        """Counters say what callers were told, and what was received is all of it."""
        told = self.ended()
        of = {each: self.counted("bertd_rows_total", outcome=each) for each in metrics.OUTCOMES}
        assert self.counted("bertd_rows_received_total") == sum(told.values())
        assert sum(of.values()) == sum(told.values()) - told["waits"]
        assert of["answered"] == told["answered"]
        assert of["refused"] == told["refused"]
        assert of["failed"] == told["failed"]
        # Who is cancelled after the deadline is cancelled because of it.
        assert of["expired"] >= told["expired"]
        assert of["expired"] + of["cancelled"] == told["expired"] + told["cancelled"]
        shed = sum(
            self.counted("bertd_shed_total", reason=reason)
            for reason in ("QueueFull", "QueueDelay", "Deadline")
        )
        assert shed == told["refused"]
        admitted = self.counted("bertd_admitted_total")
        assert admitted + shed + self.too_late == sum(told.values())


def _told(call: asyncio.Task) -> str:
    """How a call ended for its caller."""
    if not call.done():
        return "waits"
    if call.cancelled():
        return "cancelled"
    match call.exception():
        case None:
            return "answered"
        case errors.Overloaded():
            return "refused"
        case errors.Expired():
            return "expired"
        case errors.Bug() | errors.Poison():
            return "failed"
    raise AssertionError(f"{call.exception()!r} is no end of a call")


@pytest.mark.parametrize("seed", range(30))
async def test_every_row_has_one_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Received is answered, refused, expired, cancelled and failed rows, at any time (D5, D6).

    Through results, failures, deaths, cancellations, deadlines of 0 and of a year, and a clock that
    jumps by hours (checklist 56, 70).
    """
    monkeypatch.setattr(revision, "RESTART_FIRST_S", 0.0)
    monkeypatch.setattr(revision, "DRAIN_GRACE_S", 0.0)
    world = Counted(seed)
    for _ in range(2):
        await world.start()
    for _ in range(STEPS):
        await world.step()
        world.check()
        world.account()
    await world.end()
    assert world.ended()["waits"] == 0
    world.account()
    assert not world.bench.device._leases
    for each in world.revisions:
        assert len(each._feeder._queue) == 0
        await each.close()
