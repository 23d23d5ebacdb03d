"""The rules of others: of servers as they ship, and of what is written about overload.

Servers run their own batches, padded where they pad. Where a server notices that a caller has gone
away, callers go away at their deadline. Rules without a server of their own get what suits them
best: ragged batches of a size that suits the device (`Scenario.rule_rows`).

Several models are several queues that take turns on a device, as instances of one server do.
"""

import bisect
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence

from benchmarks.scheduling.engine import Batch, Item, Policy
from benchmarks.scheduling.service import Service

CODEL_TARGET_S, CODEL_INTERVAL_S = 0.005, 0.1


class Rival(Policy):
    """Whoever takes the next batch when a lane is idle, or a while after a row came."""

    def take(self, now_s: float, idle: int) -> Batch | None:
        """The next batch, if a lane is idle for it."""
        return self.next(now_s) if idle and self.ready_at() <= now_s else None

    def wakes_at(self, now_s: float, idle: int) -> float:
        """When it is ready, if a lane is idle."""
        return self.ready_at() if idle else math.inf

    @abstractmethod
    def ready_at(self) -> float:
        """When an idle lane may have a batch: in the past for at once, infinity for never."""

    @abstractmethod
    def next(self, now_s: float) -> Batch | None:
        """Removes and returns the next batch; None if all that waited is dropped."""


class Fifo(Rival):
    """First come, first served, in batches of a number of rows or of tokens.

    `places` bounds the rows that wait, `permits` those that wait or run. `wait_rows` and `wait_s`:
    how much company the first row waits for, and how long.
    """

    def __init__(
        self,
        *,
        most_rows: int,
        most_tokens: float = math.inf,
        places: float = math.inf,
        permits: float = math.inf,
        padded: bool = True,
        drops_expired: bool = False,
        wait_rows: int = 1,
        wait_s: float = 0.0,
    ) -> None:
        self.most_rows, self.most_tokens = most_rows, most_tokens
        self.places, self.permits = places, permits
        self.padded, self.drops_expired = padded, drops_expired
        self.wait_rows, self.wait_s = wait_rows, wait_s
        self.queue: deque[Item] = deque()
        self.running = 0

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Refuses only for want of a place."""
        full = len(self.queue) + len(items) > self.places
        if full or len(self.queue) + self.running + len(items) > self.permits:
            return False
        self.queue.extend(items)
        return True

    def next(self, now_s: float) -> Batch | None:
        """The oldest rows, up to the first that does not fit."""
        chosen: list[Item] = []
        tokens = longest = 0
        while self.queue and len(chosen) < self.most_rows:
            item = self.queue[0]
            if self.drops_expired and item.deadline_s <= now_s:
                self.queue.popleft()
                continue
            longest = max(longest, item.tokens)
            tokens += item.tokens
            cost = longest * (len(chosen) + 1) if self.padded else tokens
            if chosen and cost > self.most_tokens:
                break
            chosen.append(self.queue.popleft())
        self.running += len(chosen)
        return Batch(items=chosen, padded=self.padded) if chosen else None

    def ready_at(self) -> float:
        """At once, or when the oldest row has waited for company long enough."""
        if not self.queue:
            return math.inf
        if len(self.queue) >= self.wait_rows or not self.wait_s:
            return -math.inf
        return self.queue[0].arrival_s + self.wait_s

    def finished(self, batch: Batch, seconds: float, now_s: float) -> None:
        """Frees the permits."""
        self.running -= len(batch.items)


class Infinity(Rival):
    """infinity 0.0.7x: up to 8 batches of 32 rows from the queue at once, sorted by length, padded.

    Callers that have gone are dropped as their window is cut, not later.
    """

    ROWS, WINDOWS, PLACES = 32, 8, 32_000

    def __init__(self) -> None:
        self.queue: deque[Item] = deque()
        self.cut: deque[list[Item]] = deque()

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Refuses only when 32,000 rows wait."""
        if len(self.queue) + len(items) > self.PLACES:
            return False
        self.queue.extend(items)
        return True

    def next(self, now_s: float) -> Batch | None:
        """The next batch of the window; a new window when there is none."""
        while not self.cut:
            if not self.queue:
                return None
            batches = min(self.WINDOWS, max(1, len(self.queue) // self.ROWS))
            count = min(batches * self.ROWS, len(self.queue))
            window = [self.queue.popleft() for _ in range(count)]
            if batches > 1:
                window.sort(key=lambda item: item.tokens)
            for start in range(0, count, self.ROWS):
                part = window[start : start + self.ROWS]
                live = [item for item in part if item.deadline_s > now_s]
                if live:
                    self.cut.append(live)
        return Batch(items=self.cut.popleft(), padded=True)

    def ready_at(self) -> float:
        """At once, or never."""
        return -math.inf if self.cut or self.queue else math.inf


class CodelLifo(Rival):
    """Adaptive LIFO with controlled delay (Maurer, "Fail at Scale", ACM Queue 13(8), 2015).

    While the queue was empty within the last interval, rows are served in order and time out after
    the interval; while it stands, the newest go first and all time out after the target, which here
    is never less than what a batch takes.
    """

    def __init__(self, rows: int, batch_s: float) -> None:
        self.rows = rows
        self.queue: deque[Item] = deque()
        self.target_s = max(CODEL_TARGET_S, batch_s)
        self.interval_s = max(CODEL_INTERVAL_S, 4 * batch_s)
        self.empty_s = 0.0

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Refuses nothing: what waits too long is dropped."""
        if not self.queue:
            self.empty_s = now_s
        self.queue.extend(items)
        return True

    def next(self, now_s: float) -> Batch | None:
        """The newest rows while the queue stands, else the oldest."""
        stands = now_s - self.empty_s > self.interval_s
        most_s = self.target_s if stands else self.interval_s
        while self.queue and self.queue[0].arrival_s < now_s - most_s:
            self.queue.popleft()
        count = min(self.rows, len(self.queue))
        pop = self.queue.pop if stands else self.queue.popleft
        chosen = [pop() for _ in range(count)]
        if not self.queue:
            self.empty_s = now_s
        return Batch(items=chosen) if chosen else None

    def ready_at(self) -> float:
        """At once, or never."""
        return -math.inf if self.queue else math.inf


class Edf(Rival):
    """Earliest deadline first, expired rows dropped, everything let in."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.queue: list[Item] = []

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Refuses nothing."""
        for item in items:
            bisect.insort(self.queue, item, key=_deadline)
        return True

    def next(self, now_s: float) -> Batch | None:
        """The most urgent rows that are not yet late."""
        live = bisect.bisect_right(self.queue, now_s, key=_deadline)
        chosen = self.queue[live : live + self.rows]
        del self.queue[: live + self.rows]
        return Batch(items=chosen) if chosen else None

    def ready_at(self) -> float:
        """At once, or never."""
        return -math.inf if self.queue else math.inf


def _deadline(item: Item) -> float:
    return item.deadline_s


class Turns(Policy):
    """A queue for each model, one batch of each in turn, `lanes` of each at once."""

    def __init__(self, queues: Mapping[str, Policy], lanes: int) -> None:
        self.queues = queues
        self.order = deque(queues)
        self.idle = dict.fromkeys(queues, lanes)

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """As the model's own queue says."""
        return self.queues[items[0].model].offer(items, now_s)

    def take(self, now_s: float, idle: int) -> Batch | None:
        """From the first queue in turn that has a batch."""
        for model in list(self.order):
            batch = self.queues[model].take(now_s, min(idle, self.idle[model]))
            if batch is not None:
                self.idle[model] -= 1
                self.order.remove(model)
                self.order.append(model)
                return batch
        return None

    def wakes_at(self, now_s: float, idle: int) -> float:
        """When the first of them does."""
        return min(
            queue.wakes_at(now_s, min(idle, self.idle[model]))
            for model, queue in self.queues.items()
        )

    def finished(self, batch: Batch, seconds: float, now_s: float) -> None:
        """Tells the queue that it came from."""
        model = batch.items[0].model
        self.idle[model] += 1
        self.queues[model].finished(batch, seconds, now_s)


class Predicted(Rival):
    """FIFO with waits predicted: in and out by the true cost of what stands ahead.

    About the best that a queue without flows, priorities and deadlines of several lengths can do: a
    row comes in if it would end in time behind all that wait, with a full batch's time to spare,
    and a row that cannot be in time in a full batch is dropped on its way out.
    """

    MEMORY = 0.99  # of what a row costs

    def __init__(self, rows: int, service: Service, lanes: int) -> None:
        self.rows, self.service, self.lanes = rows, service, lanes
        self.queue: deque[Item] = deque()
        self.queued_s = self.row_s = 0.0
        self.ends_s: dict[int, float] = {}

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Refuses what is predicted to end late."""
        own_s = sum(map(self._row_s, items))
        busy_s = sum(max(0.0, end_s - now_s) for end_s in self.ends_s.values())
        wait_s = (busy_s + self.queued_s + own_s) / self.lanes
        self.row_s += (1 - self.MEMORY) * (own_s / len(items) - self.row_s)
        if now_s + wait_s + self.rows * self.row_s > items[0].deadline_s and self.ends_s:
            return False
        self.queue.extend(items)
        self.queued_s += own_s
        return True

    def next(self, now_s: float) -> Batch | None:
        """The oldest rows; those that would be late in their batch are gone."""
        chosen: list[Item] = []
        full_s = min(self.rows, len(self.queue)) * self.row_s
        end_s = now_s + self.service.fixed_s
        while self.queue and len(chosen) < self.rows:
            item = self.queue.popleft()
            self.queued_s -= self._row_s(item)
            alone_s = self.service.seconds([item.tokens])
            if now_s + max(full_s, alone_s) <= item.deadline_s:
                chosen.append(item)
                end_s += alone_s - self.service.fixed_s
        if not chosen:
            return None
        batch = Batch(items=chosen)
        self.ends_s[id(batch)] = end_s
        return batch

    def ready_at(self) -> float:
        """At once, or never."""
        return -math.inf if self.queue else math.inf

    def finished(self, batch: Batch, seconds: float, now_s: float) -> None:
        """The lane is free."""
        del self.ends_s[id(batch)]

    def _row_s(self, item: Item) -> float:
        """What a row adds in full batches."""
        alone_s = self.service.seconds([item.tokens])
        return alone_s - self.service.fixed_s * (1 - 1 / self.rows)


def tei() -> Policy:
    """text-embeddings-inference on its ONNX backend: 512 permits, 16,384 padded tokens, 8 rows."""
    return Fifo(most_rows=8, most_tokens=16_384, permits=512, drops_expired=True)


def tassadar() -> Policy:
    """tassadar: whatever is queued, up to 64, without a bound."""
    return Fifo(most_rows=64)


def batch_inference() -> Policy:
    """microsoft/batch-inference: up to 32, waits up to 5 ms for 8."""
    return Fifo(most_rows=32, wait_rows=8, wait_s=0.005)


def triton() -> Policy:
    """Triton's dynamic batcher: up to 32, waits 5 ms for as many, FIFO without a bound.

    Cancelled requests are dropped from its queue; deadlines of gRPC reach it as cancellations.
    """
    return Fifo(most_rows=32, wait_rows=32, wait_s=0.005, drops_expired=True)
