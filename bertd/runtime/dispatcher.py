"""Permits of one device: which revision may run a batch next.

Each permit is the right to keep one thread of one lane busy; a wide batch holds several. The front
holds them all, so that several revisions and models together never run more threads than the device
has lanes. Models that want lanes at the same time get equal shares of their time, and inside a
quantum of it the most urgent row decides.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bertd.batching import admission, shares

QUANTUM_S = 0.02  # of lane time, up to which models count as equally served
# A batch that takes so much longer than expected does not compute, or not for long: its permits are
# lent to others until it ends. So a stalled model costs nobody else a lane.
OVERDUE_FACTOR = 4.0
OVERDUE_LEAST_S = 0.05


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """So many permits in the hands of one batch, since when and for how long as far as is known.

    `then` is that of the batch which its lane has been sent ahead: it starts when this one ends.
    """

    holder: "Runnable"
    permits: int
    expected_s: float
    started_s: float = math.nan  # until it starts
    then: "Lease | None" = None

    def left_s(self, now_s: float) -> float:
        """How long its lane will be in use."""
        then_s = self.then.expected_s if self.then else 0.0
        return then_s + admission.residual_s(self.expected_s, now_s - self.started_s)

    def is_overdue(self, now_s: float) -> bool:
        """Whether its permits may be lent to others."""
        return now_s >= self.overdue_at_s

    @property
    def ends_s(self) -> float:
        """When it is expected to end."""
        return self.started_s + self.expected_s

    @property
    def overdue_at_s(self) -> float:
        """From when on they may."""
        return self.started_s + max(OVERDUE_LEAST_S, OVERDUE_FACTOR * self.expected_s)


class Runnable(Protocol):
    """A revision, as the dispatcher sees it."""

    def __hash__(self) -> int:
        """Its identity."""

    @property
    def next_deadline_s(self) -> float:
        """When its most urgent row has to run."""

    @property
    def queued_s(self) -> float:
        """Lane-seconds of the rows that wait."""

    def ready_at(self) -> float:
        """When it could use a permit: in the past for at once, infinity for not at all."""

    def ahead_at(self) -> float:
        """When it could send one of its lanes the batch after the one that runs there."""

    def dispatch(self, free_permits: int, *, is_alone: bool) -> Lease | None:
        """Starts a batch on some of the free permits.

        Args:
            free_permits: how many there are, at least one.
            is_alone: whether nobody else could use one now.

        Returns:
            What the batch holds; None when there was nothing to run after all.
        """

    def dispatch_ahead(self) -> Lease | None:
        """Sends a lane its next batch; the lease starts when that of the batch before it ends."""


class Dispatcher:
    """Gives free permits to the revision that is due.

    Args:
        permits: lanes of the device.
        clock: monotonic seconds.
    """

    def __init__(self, permits: int, clock: Callable[[], float]) -> None:
        self.permits = permits
        self._clock = clock
        self._runnables: list[Runnable] = []
        self._leases: set[Lease] = set()
        self._shares = shares.Shares(QUANTUM_S)
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at_s = math.inf

    def add(self, runnable: Runnable) -> None:
        """Lets a revision take part."""
        self._runnables.append(runnable)

    def remove(self, runnable: Runnable) -> None:
        """Takes a revision out; permits that it holds come back by `release`."""
        self._runnables.remove(runnable)
        self._shares.leave(runnable)

    def move(self, runnable: Runnable, other: "Dispatcher") -> None:
        """Lets a revision that holds no permit take part at another device, if it does here."""
        if runnable in self._runnables:
            self.remove(runnable)
            other.add(runnable)

    def release(self, lease: Lease) -> None:
        """A batch ended, in whatever way."""
        self._leases.discard(lease)
        # What was lent is not paid for: after a stall nobody owes hours of it.
        spent_s = min(self._clock(), lease.overdue_at_s) - lease.started_s
        if lease.holder in self._runnables:
            self._shares.charge(lease.holder, lease.permits * (spent_s - lease.expected_s))
        if lease.then is not None:
            self._start(lease.then)
        self.pump()

    def pump(self) -> None:
        """Starts every batch that may start now, and comes back when the next one may."""
        while self._start_next():
            pass
        self._sleep()
        self._wake_by(min((self._wants_at(each) for each in self._runnables), default=math.inf))

    @property
    def has_free(self) -> bool:
        """Whether any permit is free."""
        return self._free(self._clock()) > 0

    def pump_for(self, runnable: Runnable) -> None:
        """As `pump`, where only this one's rows are new."""
        if self.has_free:
            self.pump()
        else:
            self._wake_by(self._wants_at(runnable))

    def busy_s(self) -> list[float]:
        """For each permit, how long it will be in use; what is lent is free."""
        now_s = self._clock()
        busy_s: list[float] = []
        free = self.permits
        for lease in self._leases:
            busy_s += [lease.left_s(now_s)] * lease.permits
            free -= 0 if lease.is_overdue(now_s) else lease.permits
        return sorted(busy_s + [0.0] * free)[: self.permits]

    def busiest_s(self) -> float:
        """How long until all permits are free that are in use now."""
        now_s = self._clock()
        return max((lease.left_s(now_s) for lease in self._leases), default=0.0)

    def others_s(self, runnable: Runnable, work_s: float) -> float:
        """Lane-seconds that others are due while a revision is given so many."""
        if len(self._runnables) == 1:
            return 0.0
        return sum(min(each.queued_s, work_s) for each in self._runnables if each is not runnable)

    def _start_next(self) -> bool:
        """Starts the batch of whoever is due; False if nobody can start one."""
        now_s = self._clock()
        ready = [each for each in self._runnables if each.ready_at() <= now_s]
        free = self._free(now_s)
        if free and ready:
            lease = self._due(ready).dispatch(free, is_alone=len(ready) == 1)
            if lease is not None:
                self._start(lease)
            return True
        early = [each for each in self._runnables if each.ahead_at() <= now_s]
        if not early or (due := self._due(ready + early)) not in early:
            return False
        return due.dispatch_ahead() is not None

    def _due(self, waiting: list[Runnable]) -> Runnable:
        if len(waiting) == 1:
            return waiting[0]
        for each in waiting:
            self._shares.enter(each)
        return min(waiting, key=lambda each: (self._shares.round(each), each.next_deadline_s))

    def _start(self, lease: Lease) -> None:
        lease.started_s = self._clock()
        self._leases.add(lease)
        self._shares.reach(self._shares.of(lease.holder))
        self._shares.charge(lease.holder, lease.permits * lease.expected_s)

    def _free(self, now_s: float) -> int:
        held = sum(each.permits for each in self._leases if not each.is_overdue(now_s))
        return max(0, self.permits - held)

    def _wants_at(self, runnable: Runnable) -> float:
        """When to look again whether the revision may start a batch; what is due now has been."""
        now_s = self._clock()
        at_s = runnable.ready_at()
        if at_s < math.inf and not self._free(now_s):
            at_s = min((each.overdue_at_s for each in self._leases), default=math.inf)
        return min((each for each in (at_s, runnable.ahead_at()) if each > now_s), default=math.inf)

    def _wake_by(self, at_s: float) -> None:
        if at_s >= self._wake_at_s:
            return
        self._sleep()
        self._wake_at_s = at_s
        delay_s = max(0.0, at_s - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._woken)

    def _woken(self) -> None:
        self._wake_at_s = math.inf
        self.pump()

    def _sleep(self) -> None:
        self._wake_at_s = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
