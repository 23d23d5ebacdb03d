"""Twice as many calls as can be answered: as many answers as ever, in time; the rest is refused."""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pytest

from bertd.load import generator, outcome
from tests.e2e import conftest, load

pytestmark = pytest.mark.e2e

DEADLINE_S = 1.0
OVERLOAD_S = 3.0
RAMP_S = 1.0
LEAST_GOODPUT = 0.8  # of what a closed loop reaches; the bar of the benchmarks is higher
MOST_LATE = 0.1  # of the admitted calls
ROUNDS = 3  # other work on the machine takes from a rate and adds to none: the best round counts
RECOVERED_S = 2.0
RECOVERED = 2.5  # times as long as before
OK = grpc.StatusCode.OK
REFUSED = grpc.StatusCode.UNAVAILABLE
EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED


@dataclass(frozen=True, kw_only=True)
class Overload:
    """One round: what a closed loop reached, then twice that as an open loop, then peace."""

    peak_rps: float
    tally: outcome.Tally
    wire: load.Wire
    rows: dict[str, int]
    alone_s: float
    recovery_s: float

    @property
    def goodput(self) -> float:
        """Answers in time, as a share of the peak."""
        return self.tally.good / self.tally.duration_s / self.peak_rps

    @property
    def late(self) -> float:
        """Admitted calls whose deadline passed, as a share of the admitted."""
        return self.tally.expired / max(1, self.tally.ok + self.tally.expired)

    @property
    def is_good(self) -> bool:
        """Whether another round could not show more."""
        return self.goodput >= LEAST_GOODPUT and self.late <= MOST_LATE


@pytest.fixture(name="served", scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[conftest.Daemon]:
    folder = tmp_path_factory.mktemp("overload") / "d"
    with load.running(folder, load.manifest({"a": 1})) as daemon:
        yield daemon


@pytest.fixture(name="overload", scope="module")
def _overload(served: conftest.Daemon) -> Overload:
    best: Overload | None = None
    for _ in range(ROUNDS):
        found = asyncio.run(overloaded(served))
        if best is None or (found.is_good, found.goodput) > (best.is_good, best.goodput):
            best = found
        if best.is_good:
            break
    assert best is not None
    return best


async def overloaded(daemon: conftest.Daemon) -> Overload:
    """One round."""
    async with load.wire(daemon) as target:
        alone_s = await median_s(target)
    peak_rps = await load.capacity(daemon)
    rows = load.Rows(daemon)
    plan = generator.Plan(
        rate=2 * peak_rps, duration_s=OVERLOAD_S, warm_up_s=RAMP_S, deadline_s=DEADLINE_S
    )
    async with load.wire(daemon) as target:
        tally = await generator.Generator(plan, target, load.request).run()
        recovery_s = await recovered_s(target, alone_s)
    return Overload(
        peak_rps=peak_rps,
        tally=tally,
        wire=target,
        rows=await rows.settled(),
        alone_s=alone_s,
        recovery_s=recovery_s,
    )


async def median_s(target: load.Wire, calls: int = 9) -> float:
    """What a call takes that has the daemon to itself."""
    return statistics.median(
        [(await target.call(load.request(), 30)).seconds for _ in range(calls)]
    )


async def recovered_s(target: load.Wire, alone_s: float) -> float:
    """Seconds until five calls in a row were about as fast as before the overload."""
    began_s = time.monotonic()
    while True:
        calls = [await target.call(load.request(), 30) for _ in range(5)]
        passed_s = time.monotonic() - began_s
        usual = statistics.median(each.seconds for each in calls) <= RECOVERED * alone_s
        if (usual and load.codes(calls) == {"OK"}) or passed_s > 4 * RECOVERED_S:
            return passed_s


def test_twice_the_load_takes_nothing_from_the_answers(overload: Overload) -> None:
    """At 2x capacity about as many calls a second are answered in time as ever (checklist 64)."""
    assert overload.goodput >= LEAST_GOODPUT
    assert overload.tally.failed == 0, overload.tally.problems


def test_what_is_admitted_is_in_time(overload: Overload) -> None:
    """Under overload an admitted call is answered before its deadline (checklist 65)."""
    assert overload.late <= MOST_LATE
    p95_s = load.percentile(overload.wire.seconds(OK), 0.95)
    assert p95_s <= DEADLINE_S


def test_refusals_are_quick_and_say_when_to_come_back(overload: Overload) -> None:
    """What is too much is UNAVAILABLE with a pushback, and at once (checklist 55, 65)."""
    refused = [each for each in overload.wire.ended if each.code is REFUSED]
    assert len(refused) > 0.2 * overload.tally.sent
    assert all(each.pushback_ms is not None for each in refused)
    assert {each.pushback_ms for each in refused if each.pushback_ms < 1} <= {-1}  # type: ignore[operator]
    quick_s = statistics.median(each.seconds for each in refused)
    assert quick_s < DEADLINE_S / 10
    assert quick_s < statistics.median(overload.wire.seconds(OK))


def test_an_overload_is_soon_forgotten(overload: Overload) -> None:
    """Within 2 s of its end a lone call is answered about as fast as before (checklist 66)."""
    assert overload.recovery_s <= RECOVERED_S


def test_every_row_is_counted_once(overload: Overload) -> None:
    """Every row received ended in one way, and as its caller saw (checklist 70)."""
    wire, rows = overload.wire, overload.rows
    assert rows["received"] == sum(rows[name] for name in load.Rows.ENDS)
    assert rows["failed"] == 0
    # Of a call whose deadline passed its caller does not know what the daemon made of it.
    unsure = wire.count(EXPIRED)
    assert 0 <= rows["answered"] - wire.count(OK) <= unsure
    assert 0 <= rows["refused"] - wire.count(REFUSED) <= unsure
    assert rows["expired"] + rows["cancelled"] <= unsure
    assert 0 <= len(wire.ended) - rows["received"] <= unsure


async def test_what_expires_in_the_queue_never_runs(served: conftest.Daemon) -> None:
    """Calls that expire while the worker stands still are counted, and never run (checklist 56)."""
    rows = load.Rows(served)
    ran = load.series(served, "batch_rows_sum", model=load.MODEL)
    pid = served.worker_pid(load.MODEL)
    async with load.wire(served) as target:
        os.kill(pid, signal.SIGSTOP)
        try:
            asked = [target.call(load.request(), 0.5) for _ in range(40)]
            ended = await asyncio.gather(*asked)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await target.call(load.request(), 30)).code is OK
    assert load.codes(ended) <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    found = await rows.settled()
    assert found["expired"] >= 1
    assert found["answered"] <= 40
    # What the lane was given before it stood still, the next batch at most, and the last call.
    ran = load.series(served, "batch_rows_sum", model=load.MODEL) - ran
    assert ran <= 1 + found["received"] / 2
