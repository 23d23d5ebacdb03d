"""Whatever happens in whatever order, every permit is held by one batch or is free."""

import asyncio
import random
from typing import Any

import pytest

from bertd.batching import policy
from bertd.runtime import dispatcher, revision
from tests.runtime import fakes
from tests.runtime.test_wide_batches import WideWorker

LANES = 4
STEPS = 60
LIMITS = policy.Limits(max_tokens=512, max_rows=4)


class World:
    """Revisions of two models, wide and narrow, and what a seed does to them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = fakes.Bench(LANES, LIMITS)
        self.bench.use(WideWorker)
        self.revisions: list[revision.Revision] = []
        self.calls: list[asyncio.Task[Any]] = []
        self.behind: set[dispatcher.Lease] = set()

    async def start(self) -> None:
        """One more revision, as an update of a Model starts one beside another."""
        self.bench.use(self.random.choice((WideWorker, WideWorker, fakes.FakeWorker)))
        made = self.bench.another(self.random.choice("mn"), LIMITS)
        await made.start()
        self.revisions.append(made)

    @property
    def workers(self) -> list[fakes.FakeWorker]:
        """Those that live."""
        return [each for each in self.bench.workers if not each.lost]

    def held(self) -> int:
        """Threads of all batches that run; those that lanes were sent ahead do not yet."""
        return sum(each.threads for w in self.workers for each in w.running.values())

    def check(self) -> None:
        """Every batch that runs holds its permits; none beyond the lanes but what was lent.

        A batch that a lane was sent before it became overdue starts when the stall ends, even if
        the lane is lent: its worker has it.
        """
        leases = self.bench.device._leases
        assert sum(each.permits for each in leases) == self.held()
        now_s = self.bench.clock()
        overdue = [each for each in leases if each.is_overdue(now_s)]
        self.behind |= {each.then for each in overdue if each.then is not None}
        beyond = sum(each.permits for each in leases & self.behind)
        held = sum(each.permits for each in leases.difference(overdue))
        assert held <= LANES + beyond

    async def step(self) -> None:
        """One thing that may happen."""
        busy = [(w, lane) for w in self.workers for lane in w.running]
        what = self.random.random()
        if what < 0.45:
            self.call()
        elif what < 0.8 and busy:
            worker, lane = self.random.choice(busy)
            self.random.choice((worker.finish, worker.finish, worker.fail))(lane)
        elif what < 0.85 and busy:
            worker, lane = self.random.choice(busy)
            worker.finish(lane, rows=0)  # a result is missing
        elif what < 0.9 and self.calls:
            self.random.choice(self.calls).cancel()
        elif what < 0.94:
            self.bench.clock.now_s += self.random.random()
        elif what < 0.97 and busy:
            self.random.choice(busy)[0].die()
        elif len(self.revisions) < 3:
            await self.start()
        elif len(self.revisions) > 1:
            await self.revisions.pop(0).close()
        await fakes.turn()

    def call(self) -> None:
        """A few rows of one length, with a deadline that may pass."""
        tokens = [1] * self.random.randint(1, 6)
        length = self.random.choice((4, 60, 200))
        target = self.random.choice(self.revisions)
        deadline_s = self.random.uniform(0.3, 3)
        self.calls.append(
            self.bench.call(*tokens, length=length, target=target, deadline_s=deadline_s)
        )


@pytest.mark.parametrize("seed", range(40))
async def test_permits_are_never_lost(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, failures, deaths, expiry, cancellation and closing leave every permit somewhere."""
    monkeypatch.setattr(revision, "DRAIN_GRACE_S", 0.0)
    monkeypatch.setattr(revision, "RESTART_FIRST_S", 0.0)
    world = World(seed)
    await world.start()
    for _ in range(STEPS):
        await world.step()
        world.check()
    while any(each.running for each in world.workers):
        for worker in world.workers:
            for lane in list(worker.running):
                worker.finish(lane)
        await fakes.turn()
    world.check()
    assert not world.bench.device._leases
    for each in world.revisions:
        await each.close()
    await asyncio.wait(world.calls)
    assert not world.bench.device._leases
