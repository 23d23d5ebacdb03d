"""Permits of one device: which revision may run a batch next.

Each permit is the right to keep one thread of one lane busy; a wide batch holds several. The front
holds them all, so that several revisions and models together never run more threads than the device
has lanes.
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

    def dispatch(self, free_permits: int, *, is_alone: bool) -> int:
        """Starts a batch on some of the free permits.

        Args:
            free_permits: how many there are, at least one.
            is_alone: whether nobody else could use one now.

        Returns:
            The permits that the batch holds; 0 when there was nothing to run after all.
        """


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

    def move(self, runnable: Runnable, other: "Dispatcher") -> None:
        """Lets a revision that holds no permit take part at another device, if it does here."""
        if runnable in self._runnables:
            self.remove(runnable)
            other.add(runnable)

    def release(self, permits: int) -> None:
        """A batch that held so many permits ended, in whatever way."""
        self._free += permits
        self.pump()

    def pump(self) -> None:
        """Starts every batch that may start now, and comes back when the next one may."""
        while self._free and (ready := self._ready()):
            chosen = min(ready, key=lambda r: r.next_deadline_s)
            self._free -= chosen.dispatch(self._free, is_alone=len(ready) == 1)
        self._wake_later()

    def _ready(self) -> list[Runnable]:
        now_s = self._clock()
        return [r for r in self._runnables if r.ready_at() <= now_s]

    def _wake_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = min((r.ready_at() for r in self._runnables), default=math.inf)
        if self._free and at_s < math.inf:
            delay_s = max(0.0, at_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)
