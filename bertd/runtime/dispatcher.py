"""Permits of one device: which revision may run a batch next.

Each permit is the right to run one batch on one lane. The front holds them all, so that several
revisions and models together never run more batches than the device has lanes.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol


class Runnable(Protocol):
    """A revision, as the dispatcher sees it."""

    @property
    def next_deadline_s(self) -> float:
        """When its most urgent row expires."""

    def ready_at(self) -> float:
        """When it could use a permit: in the past for at once, infinity for not at all."""

    def dispatch(self, free_permits: int) -> bool:
        """Starts a batch on a permit; False when there was nothing to run after all."""


class Dispatcher:
    """Gives free permits to the revision with the most urgent row.

    Args:
        permits: lanes of the device.
        clock: monotonic seconds.
    """

    def __init__(self, permits: int, clock: Callable[[], float]) -> None:
        self.permits = permits
        self._free = permits
        self._clock = clock
        self._runnables: list[Runnable] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, runnable: Runnable) -> None:
        """Lets a revision take part."""
        self._runnables.append(runnable)

    def remove(self, runnable: Runnable) -> None:
        """Takes a revision out; permits that it holds come back by `release`."""
        self._runnables.remove(runnable)

    def release(self) -> None:
        """One batch ended, in whatever way."""
        self._free += 1
        self.pump()

    def pump(self) -> None:
        """Starts every batch that may start now, and comes back when the next one may."""
        while self._free and (chosen := self._most_urgent()) is not None:
            self._free -= 1
            if not chosen.dispatch(self._free):
                self._free += 1
        self._wake_later()

    def _most_urgent(self) -> Runnable | None:
        now_s = self._clock()
        ready = [r for r in self._runnables if r.ready_at() <= now_s]
        return min(ready, key=lambda r: r.next_deadline_s, default=None)

    def _wake_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = min((r.ready_at() for r in self._runnables), default=math.inf)
        if self._free and at_s < math.inf:
            delay_s = max(0.0, at_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)
