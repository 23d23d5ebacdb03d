"""Closed and open loops against a target that is a function."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable

import pytest

from bertd.load import arrivals, calls, generator, outcome, requests
from bertd.load.outcome import Outcome

Behaviour = Callable[[int], tuple[Outcome, float] | None]


def answer(_: int) -> tuple[Outcome, float]:
    """Everything is answered after a millisecond."""
    return Outcome.OK, 0.001


class Target:
    """Ends call number n as `behaviour(n)` says: how and after how long; never for None."""

    def __init__(self, behaviour: Behaviour = answer) -> None:
        self.behaviour = behaviour
        self.timeouts: list[float] = []
        self.running = self.most_running = 0

    def start(self, request: bytes, timeout_s: float, done: calls.Done) -> None:
        number = len(self.timeouts)
        self.timeouts.append(timeout_s)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        wanted = self.behaviour(number)
        if wanted:
            end, after_s = wanted
            if after_s >= timeout_s:
                end, after_s = Outcome.EXPIRED, timeout_s
            asyncio.get_running_loop().call_later(after_s, self._end, end, done)

    def _end(self, end: Outcome, done: calls.Done) -> None:
        self.running -= 1
        problem = "INTERNAL: oh" if end is Outcome.FAILED else ""
        done(calls.Ended(end, time.monotonic(), reply=b"reply", problem=problem))


async def run(target: Target, **plan: float) -> outcome.Tally:
    """The tally of a plan of a quarter of a second, unless it says otherwise."""
    asked = generator.Plan(**{"duration_s": 0.25, "deadline_s": 1.0, **plan})
    return await generator.Generator(asked, target, lambda: b"x").run()


def accounted(tally: outcome.Tally) -> int:
    """Calls of which it is known how they ended."""
    return tally.ok + tally.failed + tally.refused + tally.expired


ENDS = (Outcome.OK, Outcome.REFUSED, Outcome.EXPIRED, Outcome.FAILED)


@pytest.mark.parametrize("loop", [{"concurrency": 8}, {"rate": 400.0}], ids=["closed", "open"])
async def test_every_call_is_accounted_for_once(loop):
    """sent = ok + failed + refused + expired, with all four and without a warm-up."""
    target = Target(lambda n: (ENDS[n % 4], 0.001 * (n % 7)))
    tally = await run(target, **loop)
    assert tally.sent == accounted(tally) == len(target.timeouts)
    assert min(tally.ok, tally.failed, tally.refused, tally.expired) > 0
    assert tally.problems == {"INTERNAL: oh": tally.failed}
    assert (tally.latency.count, tally.refusal.count) == (tally.ok, tally.refused)


async def test_a_closed_loop_keeps_as_many_callers_as_asked():
    """Never more than `concurrency` calls are under way, and all callers take part."""
    target = Target(lambda _: (Outcome.OK, 0.01))
    tally = await run(target, concurrency=5)
    assert target.most_running == 5
    assert tally.ok > 5


async def test_an_open_loop_never_waits_for_answers():
    """A target that stalls for the whole span is sent all that the schedule has."""
    target = Target(lambda _: (Outcome.OK, 0.6))
    tally = await run(target, rate=400.0, seed=1)
    due = itertools.takewhile(lambda at_s: at_s < 0.25, arrivals.poisson(400.0, random.Random(1)))
    assert tally.sent == target.most_running == len(list(due)) > 50


async def test_a_stall_shows_in_the_latency_of_an_open_loop():
    """While a target answers nobody for 0.2 s, calls that were due then waited for it."""
    began_s = time.monotonic()

    def stalling(_: int) -> tuple[Outcome, float]:
        return Outcome.OK, max(began_s + 0.25 - time.monotonic(), 0.001)

    tally = await run(Target(stalling), rate=400.0, duration_s=0.4)
    assert tally.latency.percentile(900) > 0.1
    assert tally.latency.most_s > 0.2


async def test_a_generator_that_is_late_says_so_and_counts_it():
    """A loop that was blocked sends what was due, late: lag and latency both show it."""
    blocked = []

    def block_once(number: int) -> tuple[Outcome, float]:
        if number == 5:
            blocked.append(time.sleep(0.15))
        return Outcome.OK, 0.001

    tally = await run(Target(block_once), rate=400.0)
    assert blocked
    assert tally.lag.most_s > 0.1
    assert tally.latency.most_s > 0.1
    assert outcome.summary(tally)["lag_ms"] > 50


async def test_deadlines_run_from_when_a_call_was_due():
    """A call that leaves late has less time; one past its deadline expires without leaving."""

    def block_once(number: int) -> tuple[Outcome, float]:
        if number == 5:
            time.sleep(0.15)
        return Outcome.OK, 0.001

    target = Target(block_once)
    tally = await run(target, rate=400.0, deadline_s=0.1)
    assert min(target.timeouts) < 0.09
    assert max(target.timeouts) <= 0.1
    assert tally.expired > 0
    assert tally.sent == accounted(tally) > len(target.timeouts)


async def test_an_answer_after_its_deadline_is_no_goodput():
    """Answers count as good within the deadline alone, whatever a target lets through."""
    target = Target()
    target.start = lambda request, timeout_s, done: asyncio.get_running_loop().call_later(
        0.05, lambda: done(calls.Ended(Outcome.OK, time.monotonic()))
    )
    tally = await run(target, concurrency=2, deadline_s=0.01)
    assert tally.answered > 0
    assert tally.good == 0


async def test_rates_count_what_ended_within_the_span():
    """Answers that come after the span are calls of it, but no throughput of it."""
    tally = await run(Target(lambda _: (Outcome.OK, 0.4)), rate=200.0)
    assert tally.ok == tally.sent > 0
    assert tally.answered == tally.good == 0
    assert outcome.summary(tally)["rps"] == 0.0


async def test_the_warm_up_is_load_that_is_not_measured():
    """Calls before the span are made; only those due within it are counted."""
    seen = []
    target = Target()
    plan = generator.Plan(rate=400.0, duration_s=0.1, warm_up_s=0.15, deadline_s=1.0)
    made = generator.Generator(plan, target, lambda: b"", observe=lambda *each: seen.append(each))
    tally = await made.run()
    assert made.made == len(target.timeouts) > tally.sent == len(seen) > 0
    assert all(0 <= at_s < 0.1 for at_s, _, _ in seen)
    assert tally.duration_s == pytest.approx(0.1)


async def test_callers_whose_calls_fail_do_not_spin():
    """Where nobody listens, a caller pauses; a refusal is an answer and no reason to."""
    target = Target(lambda _: (Outcome.FAILED, 0.0))
    tally = await run(target, concurrency=2)
    assert 2 <= tally.failed <= 8
    refused = await run(Target(lambda _: (Outcome.REFUSED, 0.001)), concurrency=2)
    assert refused.refused > 8


async def test_calls_under_way_are_bounded(monkeypatch):
    """At the bound an open loop holds calls back; their latency counts from when they were due."""
    monkeypatch.setattr(generator, "MAX_OUTSTANDING", 10)
    target = Target(lambda _: (Outcome.OK, 0.1))
    tally = await run(target, rate=400.0)
    assert target.most_running == 10
    assert tally.sent == accounted(tally) == pytest.approx(100, abs=50)
    assert tally.latency.most_s > 0.3
    assert tally.lag.most_s > 0.2


@pytest.mark.parametrize("loop", [{"concurrency": 2}, {"rate": 200.0}], ids=["closed", "open"])
@pytest.mark.parametrize("warm_up_s", [0.0, 60.0])
async def test_a_load_that_is_stopped_tells_what_it_has(loop, warm_up_s):
    """Stopped in the span or in the warm-up, it ends with what is under way, the span cut short."""
    plan = generator.Plan(duration_s=60.0, warm_up_s=warm_up_s, deadline_s=1.0, **loop)
    target = Target()
    made = generator.Generator(plan, target, lambda: b"x")
    asyncio.get_running_loop().call_later(0.1, made.stop)
    tally = await asyncio.wait_for(made.run(), 5.0)
    assert target.running == 0
    assert len(target.timeouts) > 0
    assert tally.sent == accounted(tally) == (0 if warm_up_s else len(target.timeouts))
    assert tally.duration_s == 0.0 if warm_up_s else 0.05 <= tally.duration_s < 5.0


async def test_a_call_that_never_ends_is_counted_as_failed(monkeypatch):
    """A target that loses a call cannot hang the load, nor hide the call."""
    monkeypatch.setattr(generator, "LOST_AFTER_S", 0.0)
    target = Target(lambda n: None if n == 3 else answer(n))
    tally = await run(target, concurrency=2, deadline_s=0.1)
    assert tally.failed == 1
    assert tally.sent == accounted(tally)


async def test_no_arrival_in_the_span_is_no_load():
    """A rate so low that nothing is due ends at once with nothing sent."""
    tally = await asyncio.wait_for(run(Target(), rate=1e-6), 5.0)
    assert tally.sent == 0


async def test_replies_are_read_where_there_is_a_reader():
    """Tokens, times and revisions are those that the replies told."""
    told = requests.Told(tokens=7, tokenize_s=0.1, queue_s=0.2, inference_s=0.3, revision="r1")
    plan = generator.Plan(concurrency=2, duration_s=0.1, deadline_s=1.0)
    read = []
    made = generator.Generator(
        plan, Target(), lambda: b"x", read=lambda reply: read.append(reply) or told
    )
    tally = await made.run()
    assert set(read) == {b"reply"}
    assert tally.tokens == 7 * tally.answered
    assert (tally.told, tally.revisions) == (tally.ok, {"r1"})
    assert outcome.summary(tally)["server_ms"] == {
        "tokenize": 100.0,
        "queue": 200.0,
        "inference": 300.0,
    }
