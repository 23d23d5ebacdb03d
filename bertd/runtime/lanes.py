"""The lanes of one revision's worker: what each runs, and what it was sent ahead."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from bertd.batching import policy
from bertd.runtime import dispatcher

# A lane is sent its next batch so long before the one that it runs is expected to end, and never in
# the first three quarters of it. Then it never waits for the front, and rows which come meanwhile
# are still ordered by the policy.
AHEAD_S = 0.002
AHEAD_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Running:
    """A batch on its lane, and the permits that it holds."""

    rows: list[policy.Row]
    lease: dispatcher.Lease


class Lanes:
    """Numbers of lanes that are idle, and batches on the others. Has one owner.

    Args:
        count: how many there are.
        clock: monotonic seconds.
    """

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        self.idle = list(range(count))
        self._clock = clock
        self._running: dict[int, deque[Running]] = {}

    def __bool__(self) -> bool:
        """Whether anything runs."""
        return bool(self._running)

    @property
    def tokens(self) -> int:
        """Tokens of all that runs or was sent ahead."""
        return sum(row.tokens for each in self._running.values() for b in each for row in b.rows)

    @property
    def has_suspect(self) -> bool:
        """Whether a row that may have killed a worker runs; such a row runs alone."""
        return any(each[0].rows[0].isolate for each in self._running.values())

    def begin(self, lane: int, batch: Running) -> None:
        """A lane was sent a batch: to run at once, or after the one that it runs."""
        batches = self._running.setdefault(lane, deque())
        if batches:
            batches[-1].lease.then = batch.lease
        batches.append(batch)

    def end(self, lane: int) -> Running:
        """The batch that a lane has done; it is idle, unless it knows of another."""
        batches = self._running[lane]
        done = batches.popleft()
        if not batches:
            del self._running[lane]
            self.idle.append(lane)
        return done

    def clear(self) -> list[list[Running]]:
        """All lanes are idle again: the batches that each will not answer, in their order."""
        lanes = [list(each) for each in self._running.values()]
        self.idle += self._running
        self._running.clear()
        for lane in lanes:
            lane[0].lease.then = None
        return lanes

    def left_s(self, now_s: float) -> float:
        """How long until one of them is idle."""
        if self.idle or not self._running:
            return 0.0
        return min(each[0].lease.left_s(now_s) for each in self._running.values())

    def ahead_at(self) -> float:
        """From when on a lane may be sent its next batch; infinity where none may."""
        if self.idle:
            return math.inf
        return min(map(_ahead_at, self._ahead().values()), default=math.inf)

    def next(self) -> tuple[int, dispatcher.Lease]:
        """The lane that is to be sent its next batch, and the lease of the one that it runs."""
        leases = self._ahead()
        lane = min(leases, key=lambda lane: leases[lane].ends_s)
        return lane, leases[lane]

    def _ahead(self) -> dict[int, dispatcher.Lease]:
        """Lanes that run one batch on their own thread, know of no other, and do not stall."""
        now_s = self._clock()
        return {
            lane: lease
            for lane, each in self._running.items()
            if len(each) == 1
            and (lease := each[0].lease).permits == 1
            and lease.expected_s > 0
            and not lease.is_overdue(now_s)
        }


def _ahead_at(lease: dispatcher.Lease) -> float:
    return lease.ends_s - min(AHEAD_S, AHEAD_SHARE * lease.expected_s)
