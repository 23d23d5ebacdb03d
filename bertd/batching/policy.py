"""The batching policy: earliest deadline first inside weighted fair shares, as pure functions.

Rows of one adapter and priority are a flow. Flows are given tokens by weight, in rounds of a
quantum (`shares`); inside a round, and inside a flow, the earliest deadline goes first. So urgent
rows overtake patient ones, but never by taking what another flow was due.
"""

import heapq
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from bertd import errors
from bertd.batching import cost, shares

# A row is ordered as if it had to run this long after it came: the bound on how long rows with
# nearer deadlines of its own flow may overtake it.
PATIENCE_S = 10.0
# Rows that do not fit into what is left of a batch are passed over for others, this many at most.
MAX_LOOKAHEAD_ROWS = 32
# A batch may take so much longer than predicted without making one of its rows late.
MARGIN_SHARE = 0.1
# What a waiting row occupies in the front besides its tokens (an id and a type of 4 + 1 bytes).
ROW_BYTES = 1024
TOKEN_BYTES = 5


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """One sequence that waits to run.

    `sequence` is unique and grows with arrival: it breaks ties and makes equal deadlines first
    come, first served. `flow` is whose share it uses and `weight` how much of one that is.
    `isolate` marks a row that may have killed a worker: it runs before all others, and alone.
    """

    tokens: int
    deadline_s: float
    arrival_s: float
    sequence: int
    flow: Hashable = ""
    weight: float = 1.0
    isolate: bool = False
    cancelled: bool = False
    payload: object = None
    order: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self.order = (min(self.deadline_s, self.arrival_s + PATIENCE_S), self.sequence)

    @property
    def size_bytes(self) -> int:
        """What it occupies while it waits."""
        return ROW_BYTES + TOKEN_BYTES * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one batch may hold, and how long a row may wait for company while a lane is idle.

    Raises:
        errors.Bug: A limit is not positive; manifests with such limits are refused long before.
    """

    max_tokens: int
    max_rows: int
    max_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.max_rows < 1 or not 0 <= self.max_delay_s < math.inf:
            raise errors.Bug(f"batching limits must be positive: {self}. This is a bug.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What `take` decided: rows to run now, and rows whose deadline passed. All others wait on."""

    batch: list[Row]
    expired: list[Row]


def order(row: Row) -> tuple[float, int]:
    """The order inside a flow: earliest deadline first, then first come."""
    return row.order


def take(
    flows: Mapping[Hashable, Sequence[Row]],
    served: Mapping[Hashable, float],
    limits: Limits,
    now_s: float,
    price: cost.Price = cost.FREE,
    due: Mapping[Hashable, float] = MappingProxyType({}),
) -> Taken:
    """Chooses one batch of the waiting rows, and finds the expired.

    The first live row that can still be in time always runs, so that no length starves; a row
    longer than the whole budget runs alone. Later rows fill what is left of the budget, in order,
    passing over rows that do not fit and rows that would make the batch too long for a deadline in
    it. A row that is predicted to be late runs only when no other row can: a prediction may err,
    and nothing else would put it right.

    Args:
        flows: Waiting rows of each flow, at least one each, sorted by `order`; none is cancelled.
        served: What each flow was given so far; see `shares.Shares`.
        limits: Bounds of the batch.
        now_s: The time; a deadline at or before it has passed.
        price: What batches cost.
        due: What a flow was given when its first row became first, where that is less: rows that
            overtook it, because it did not fit, must not delay it as well.
    """
    batch = _Batch(limits, now_s, price)
    late: list[Row] = []
    walk = _Walk(flows, served, due, now_s)
    passed = 0
    for row in walk:
        if now_s + price.alone_s(row.tokens) > row.deadline_s:
            late.append(row)
            continue
        if batch.add(row):
            walk.charge(row)
            if batch.is_full:
                break
        else:
            passed += 1
            if passed == MAX_LOOKAHEAD_ROWS:
                break
    return Taken(batch=batch.rows or late[:1], expired=_expired(flows, now_s))


class _Walk:
    """Live rows in the order in which flows are due; a row that is charged delays its flow."""

    def __init__(
        self,
        flows: Mapping[Hashable, Sequence[Row]],
        served: Mapping[Hashable, float],
        due: Mapping[Hashable, float],
        now_s: float,
    ) -> None:
        self._rows = list(flows.values())
        self._served = [served.get(flow, 0.0) for flow in flows]
        self._now_s = now_s
        self._flow = -1
        self._due = [
            (shares.round_of(due.get(key, self._served[flow])), rows[0].order, flow, 0)
            for flow, (key, rows) in enumerate(flows.items())
        ]
        heapq.heapify(self._due)

    def __iter__(self) -> Iterator[Row]:
        while self._due:
            _, _, flow, at = self._due[0]
            rows = self._rows[flow]
            if rows[at].deadline_s > self._now_s:
                self._flow = flow
                yield rows[at]
            if at + 1 == len(rows):
                heapq.heappop(self._due)
            else:
                due = shares.round_of(self._served[flow])
                heapq.heapreplace(self._due, (due, rows[at + 1].order, flow, at + 1))

    def charge(self, row: Row) -> None:
        """The row that came last is taken."""
        self._served[self._flow] += row.tokens / row.weight


class _Batch:
    """Rows chosen so far, and what may still join them."""

    def __init__(self, limits: Limits, now_s: float, price: cost.Price) -> None:
        self.rows: list[Row] = []
        self._free_rows = limits.max_rows
        self._free_tokens = limits.max_tokens
        self._price = price
        self._start_s = now_s
        self._end_s = now_s + price.fixed_s
        self._deadline_s = math.inf

    @property
    def is_full(self) -> bool:
        """Whether nothing can join."""
        return self._free_rows == 0 or self._free_tokens <= 0

    def add(self, row: Row) -> bool:
        """Takes a row if it fits; the first one always does."""
        end_s = self._end_s + self._price.row_s(row.tokens)
        deadline_s = min(self._deadline_s, row.deadline_s)
        if self.rows and row.tokens > self._free_tokens:
            self._make_way(row)
            return False
        if self.rows and end_s + MARGIN_SHARE * (end_s - self._start_s) > deadline_s:
            return False
        self.rows.append(row)
        self._free_rows -= 1
        self._free_tokens -= row.tokens
        self._end_s, self._deadline_s = end_s, deadline_s
        return True

    def _make_way(self, row: Row) -> None:
        """A row that does not fit goes next: what fills its place must not make it late."""
        latest_s = row.deadline_s - self._price.alone_s(row.tokens)
        if latest_s >= self._end_s:
            self._deadline_s = min(self._deadline_s, latest_s)


def _expired(flows: Mapping[Hashable, Sequence[Row]], now_s: float) -> list[Row]:
    """Rows are sorted by a time that is never after their deadline: the expired are in front."""
    expired = []
    for rows in flows.values():
        for row in rows:
            if row.order[0] > now_s:
                break
            if row.deadline_s <= now_s:
                expired.append(row)
    return expired
