"""Load along a plan: as many callers as are wanted (closed loop), or calls at a rate (open loop).

In an open loop calls are due when the schedule says, whether or not answers come, and latency
counts from then: a daemon that stalls, and a generator that is late, both show in it (what is
called coordinated omission hides them). The deadline runs from then as well.
"""

import asyncio
import functools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from bertd.load import alarm, arrivals, calls, requests
from bertd.load.outcome import Outcome, Tally

# Beyond that an open loop holds calls back, which shows as lag and in their latency.
MAX_OUTSTANDING = 16_384
# A generator that is behind looks at answers after so many calls.
CALLS_PER_TURN = 64
# A closed loop's caller whose call failed: without a pause it would spin where nobody listens.
FAILED_PAUSE_S = 0.1
LOST_AFTER_S = 5.0  # past its deadline

Observe = Callable[[float, float, Outcome], None]
"""Told of each call that was due in the span: at which second of it, its latency, and its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What load to make: `concurrency` callers, or `rate` calls a second where that is not 0.

    Calls that are due in the first `warm_up_s` are made, and not counted.
    """

    concurrency: int = 1
    rate: float = 0.0
    duration_s: float
    warm_up_s: float = 0.0
    deadline_s: float
    seed: int = 0


class Target(Protocol):
    """Whatever takes requests: `calls.Calls`, or what a benchmark calls another server with."""

    def start(self, request: bytes, timeout_s: float, done: calls.Done) -> None:
        """Sends one; `done` is called exactly once, never before this returns."""


class Generator:
    """Makes the load of one plan, once; `tally` may be read while it runs.

    Args:
        plan: How many calls, when.
        target: What is called.
        draw: The next request.
        read: What a reply says of itself; without it nothing is known of tokens and revisions.
        observe: Is told of every call.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        draw: Callable[[], bytes],
        *,
        read: requests.Read | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.plan = plan
        self.tally = Tally()
        self.outstanding = 0
        self.made = 0  # calls, those of the warm-up too
        self.begins_s = self.ends_s = 0.0  # of the span, by time.monotonic
        self._target = target
        self._draw = draw
        self._read = read
        self._observe = observe
        self._idle = asyncio.Event()
        self._pausing = 0  # callers between a failed call and the next
        self._alarm: alarm.Alarm | None = None
        self._schedule: Iterator[float] = iter(())
        self._due_s = 0.0  # of the open loop's next call

    async def run(self) -> Tally:
        """Makes the load and returns when every call has ended."""
        now_s = time.monotonic()
        plan = self.plan
        self.begins_s = now_s + plan.warm_up_s
        self.ends_s = self.begins_s + plan.duration_s
        if plan.rate:
            offsets = arrivals.poisson(plan.rate, random.Random(plan.seed))
            self._schedule = (now_s + offset_s for offset_s in offsets)
            self._due_s = next(self._schedule)
            self._alarm = alarm.make(self._send_due)
            self._send_due()
        else:
            for _ in range(plan.concurrency):
                self._send(time.monotonic())
        longest_s = plan.warm_up_s + plan.duration_s + plan.deadline_s + LOST_AFTER_S
        try:
            await asyncio.wait_for(self._idle.wait(), longest_s)
        except TimeoutError:
            self._give_up()
        finally:
            self._close_alarm()
        self.tally.duration_s = self.ends_s - self.begins_s
        return self.tally

    def stop(self) -> None:
        """Ends the span now; `run` returns when the calls under way have ended."""
        now_s = time.monotonic()
        self.begins_s, self.ends_s = min(self.begins_s, now_s), min(self.ends_s, now_s)
        self._close_alarm()
        self._may_be_idle()

    def _send_due(self) -> None:
        """Open loop: sends everything that is due, and sets the alarm for what comes next."""
        if self._alarm is None:
            return
        for _ in range(CALLS_PER_TURN):
            if self._due_s > time.monotonic() or self._due_s >= self.ends_s:
                break
            if self.outstanding >= MAX_OUTSTANDING:
                return  # the end of a call goes on here
            self._send(self._due_s)
            self._due_s = next(self._schedule)
        if self._due_s < self.ends_s:
            self._alarm.set(self._due_s)
        else:
            self._close_alarm()
            self._may_be_idle()

    def _send(self, due_s: float) -> None:
        now_s = time.monotonic()
        if self.begins_s <= due_s < self.ends_s:
            self.tally.sent += 1
            self.tally.lag.record(now_s - due_s)
        self.outstanding += 1
        self.made += 1
        done = functools.partial(self._ended, due_s)
        left_s = due_s + self.plan.deadline_s - now_s
        if left_s > 0:
            self._target.start(self._draw(), left_s, done)
        else:  # held back for so long that nobody would wait for it any more
            late = calls.Ended(Outcome.EXPIRED, now_s)
            asyncio.get_running_loop().call_soon(done, late)

    def _ended(self, due_s: float, ended: calls.Ended) -> None:
        self.outstanding -= 1
        self._count(due_s, ended)
        if self.plan.rate:
            if self.outstanding == MAX_OUTSTANDING - 1:
                self._send_due()
        elif ended.outcome is Outcome.FAILED:
            self._pausing += 1
            asyncio.get_running_loop().call_later(FAILED_PAUSE_S, self._paused)
        else:
            self._again(ended.at_s)
        self._may_be_idle()

    def _paused(self) -> None:
        self._pausing -= 1
        self._again(time.monotonic())
        self._may_be_idle()

    def _again(self, at_s: float) -> None:
        """Closed loop: a caller who has an answer asks again at once."""
        if at_s < self.ends_s:
            self._send(at_s)

    def _count(self, due_s: float, ended: calls.Ended) -> None:
        tally, latency_s = self.tally, ended.at_s - due_s
        told = self._read(ended.reply) if self._read and ended.outcome is Outcome.OK else None
        if self.begins_s <= due_s < self.ends_s:
            tally.end(ended.outcome, latency_s, ended.problem)
            if told:
                tally.told += 1
                tally.tokenize_s += told.tokenize_s
                tally.queue_s += told.queue_s
                tally.inference_s += told.inference_s
                tally.saw(told.revision)
            if self._observe:
                self._observe(due_s - self.begins_s, latency_s, ended.outcome)
        if ended.outcome is Outcome.OK and self.begins_s <= ended.at_s < self.ends_s:
            tally.answered += 1
            tally.good += latency_s <= self.plan.deadline_s
            tally.tokens += told.tokens if told else 0

    def _may_be_idle(self) -> None:
        if not self.outstanding and not self._pausing and self._alarm is None:
            self._idle.set()

    def _give_up(self) -> None:
        """Counts calls that never ended, which no target may leave."""
        tally = self.tally
        lost = tally.sent - tally.ok - tally.failed - tally.refused - tally.expired
        for _ in range(lost):
            tally.end(Outcome.FAILED, 0.0, "the call never ended, not even at its deadline")

    def _close_alarm(self) -> None:
        if self._alarm:
            self._alarm.close()
            self._alarm = None
