"""The batcher for asyncio: items in, batches through a function, each result to its own caller."""

import asyncio
import contextvars
import functools
import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Self, SupportsIndex, TypeVar, cast

from bertd import errors
from bertd.batcher import admitting, calling, counts, hooks, limits
from bertd.batching import admission, cost, policy, queue, shares, sharing

T = TypeVar("T")
R = TypeVar("R")

# How long a close that gave up waits for an async function which ignores that it is cancelled.
ABANDON_S = 1.0
TURNS_PER_BATCH = 4


@dataclass(slots=True, eq=False)
class _Job(Generic[T, R]):
    """What a row of the policy carries."""

    item: T
    future: asyncio.Future[R]
    timer: asyncio.TimerHandle | None


@dataclass(slots=True, eq=False)
class _Lane:
    """A batch that runs: its rows, and those that are in a call of the function now."""

    rows: Sequence[policy.Row]
    lengths: Sequence[int] = ()
    started_s: float = 0.0
    task: asyncio.Task[None] | None = None


def one(_item: object) -> int:
    """The default size: every item counts as one token."""
    return 1


class Batcher(Generic[T, R]):
    """Wraps a function of many items into `await batcher.submit(item)`.

        async with Batcher(embed, limits=Limits(max_rows=32, max_delay_s=0.005)) as batcher:
            vector = await batcher.submit("Loved it!", timeout_s=1.0, flow="tenant-a")

    Items that are submitted in one turn of the loop share a batch, and while a batch runs the next
    one gathers; `max_delay_s` adds a wait for company on an idle lane. Who goes next is decided by
    `bertd.batching.policy`, as in the daemon: flows share by weight, the earliest deadline first.

    A batch that fails runs again in halves until the item that fails alone is found; only its
    caller has the error. That takes two extra calls per halving for one bad item, and never more
    than two per item; the function must bear to see an item again.

    Args:
        function: Takes a list of items and returns one result for each, by position. A sync one
            runs on threads of the batcher's own, an async one on the loop.
        limits: What a batch may hold, and what may wait.
        size: The tokens of an item, at least 1; by default every item is one token.
        lanes: Batches that may run at once. With one, the function is never called concurrently.
        hooks: Told of events.

    Raises:
        errors.InvalidRequest: `function` cannot be called, or `lanes` is not positive.
    """

    def __init__(
        self,
        function: calling.Function[T, R],
        *,
        limits: limits.Limits | None = None,
        size: Callable[[T], int] = one,
        lanes: int = 1,
        hooks: Iterable[hooks.Hooks] = (),
    ) -> None:
        if not callable(function):
            raise errors.InvalidRequest("`function` must be callable")
        if not isinstance(lanes, int) or lanes < 1:
            raise errors.InvalidRequest(f"`lanes` must be an integer of at least 1, and is {lanes}")
        self._limits = limits or _defaults()
        self._size = size
        self._batch = self._limits.batch
        if size is one and self._batch.max_rows < self._batch.max_tokens:
            self._batch = replace(self._batch, max_tokens=self._batch.max_rows)
        self._share = _share(self._batch.max_tokens)
        self._lanes = lanes
        self._observers = _observers(hooks)
        self._caller = calling.Caller(function, lanes)
        self._queue = queue.Queue(max_bytes=sys.maxsize)  # `admitting` bounds it
        self._cost = cost.Cost()
        self._enough = self._batch
        self._counts = counts.Counts()
        self._sequence = itertools.count()
        self._running: set[_Lane] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drained = asyncio.Event()
        self._is_closing = False
        self._is_pumping = False
        self._wake: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def counts(self) -> counts.Counts:
        """What became of every item so far, as a copy."""
        return replace(self._counts)

    @property
    def is_inside(self) -> bool:
        """Whether the batch function itself is asking, from its task or thread."""
        return self._caller.is_inside

    # Items in.

    def open(self) -> None:
        """Binds the batcher to the running loop; `async with` does it.

        Raises:
            errors.Conflict: It was opened before.
        """
        if self._loop is not None or self._is_closing:
            raise errors.Conflict("a batcher must be opened once", hint="make another one")
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._observers.tell("on_start")

    async def submit(
        self, item: T, *, timeout_s: float | None = None, flow: str = "", weight: float = 1.0
    ) -> R:
        """Waits for the result of one item; cancelling it frees its place and hurts nobody.

        Args:
            item: Anything that the function understands.
            timeout_s: After this the item is not worth computing; None: whenever.
            flow: Whose share it uses: a tenant, a priority.
            weight: How much of a share its flow has.

        Raises:
            errors.Overloaded: The queue is full, or the item is predicted to be late or to wait
                longer than `max_queue_delay_s`.
            errors.Expired: The time is over; an item that still waited was never computed.
            errors.TooLarge: The item is larger than `max_tokens`.
            errors.NotReady: The batcher is not open, or closing.
            errors.InvalidRequest: An argument is wrong, or the batch function asks: it would wait
                for itself. Also for a function that returned something else than one result each.
            Exception: Whatever the function raised for this item alone.
        """
        return await self.schedule(item, timeout_s=timeout_s, flow=flow, weight=weight)

    def schedule(
        self, item: T, *, timeout_s: float | None = None, flow: str = "", weight: float = 1.0
    ) -> asyncio.Future[R]:
        """Like `submit`, without waiting: refuses at once, or returns the future of the result."""
        try:
            loop = self._open_loop()
            row = self._admitted(item, loop.time(), timeout_s, flow, weight)
        except BaseException:
            self._counts.refused += 1
            raise
        future: asyncio.Future[R] = loop.create_future()
        timer = None
        if row.deadline_s < math.inf:
            timer = loop.call_at(row.deadline_s, self._expire, row)
        row.payload = _Job(item, future, timer)
        future.add_done_callback(functools.partial(self._settle, row))
        self._queue.put([row])
        self._counts.submitted += 1
        if not self._is_pumping:
            # Not at once: what else is submitted in this turn of the loop is company for free.
            self._is_pumping = True
            loop.call_soon(self._pump)
        self._observers.tell("on_schedule", item)
        return future

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        if self._is_closing:
            raise errors.NotReady("the batcher is closing", retry_after_s=-1)
        if self._loop is None:
            raise errors.NotReady("the batcher is not open", hint="use `async with`")
        self._check_place(self._loop)
        return self._loop

    def _check_place(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuses those who would wait for ever: for themselves, or on a loop that never wakes."""
        if asyncio.get_running_loop() is not loop:
            raise errors.InvalidRequest(
                "a batcher must be used on the loop that opened it",
                hint="use `SyncBatcher` from other threads",
            )
        if self._caller.is_inside:
            raise errors.InvalidRequest("a batch function must not wait for its own batcher")

    def _admitted(
        self, item: T, now_s: float, timeout_s: float | None, flow: str, weight: float
    ) -> policy.Row:
        """The row of an item that may wait; raises for any other."""
        if not 0 < weight < math.inf:
            raise errors.InvalidRequest(f"`weight` must be above 0 and finite, and is {weight}")
        if timeout_s is not None and math.isnan(timeout_s):
            raise errors.InvalidRequest("`timeout_s` must be a number of seconds")
        row = policy.Row(
            tokens=_tokens(self._size(item)),
            deadline_s=math.inf if timeout_s is None else now_s + timeout_s,
            arrival_s=now_s,
            sequence=next(self._sequence),
            flow=flow,
            weight=weight * self._share,
        )
        admitting.check(
            row,
            waiting=self._queue,
            limits=self._limits,
            enough=self._enough,
            price=self._cost.price,
            busy_s=self._busy_s(now_s),
            now_s=now_s,
        )
        return row

    def _busy_s(self, now_s: float) -> list[float]:
        """For each lane, the predicted seconds until it is free."""
        price = self._cost.price
        busy = [
            admission.residual_s(price.batch_s(lane.lengths), now_s - lane.started_s)
            for lane in self._running
            if lane.lengths
        ]
        return busy + [0.0] * (self._lanes - len(busy))

    # Batches out.

    def _pump(self) -> None:
        """Gives waiting rows to idle lanes, or arranges to be called when they may go."""
        self._is_pumping = False
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        loop = self._bound_loop()
        while len(self._running) < self._lanes and len(self._queue):
            now_s = loop.time()
            ready_s = -math.inf if self._is_closing else self._queue.ready_at(self._limits.company)
            if ready_s > now_s:
                self._wake = loop.call_at(ready_s, self._pump)
                return
            taken = self._queue.take(self._enough, now_s, self._cost.price)
            for row in taken.expired:
                self._expire(row)
            if taken.batch:
                self._start(taken.batch)

    def _start(self, rows: list[policy.Row]) -> None:
        lane = _Lane(rows)
        self._running.add(lane)
        # Not in the context of whichever caller came first: that one's variables are its own.
        lane.task = self._bound_loop().create_task(self._run(lane), context=self._context.copy())
        lane.task.add_done_callback(functools.partial(self._end, lane))

    async def _run(self, lane: _Lane) -> None:
        """Answers every row of a batch, in as few calls of the function as that takes."""
        parts = [lane.rows]
        while parts:
            part = [row for row in parts.pop() if self._is_wanted(row)]
            if not part:
                continue
            error = await self._attempt(lane, part)
            if error is not None and len(part) == 1:
                self._counts.failed += self._fail(part[0], error)
            elif error is not None:
                half = len(part) // 2
                parts += [part[half:], part[:half]]

    async def _attempt(self, lane: _Lane, rows: list[policy.Row]) -> Exception | None:
        """Calls the function once, and answers these rows or returns why not."""
        loop = self._bound_loop()
        lane.lengths, lane.started_s = [row.tokens for row in rows], loop.time()
        items = [self._job(row).item for row in rows]
        is_warm = self._counts.calls >= self._lanes
        self._counts.calls += 1
        self._observers.tell("on_batch_start", items)
        try:
            results = await self._caller.call(items)
        except Exception as error:
            self._observers.tell("on_exception", error)
            return error
        finally:
            lengths, lane.lengths = lane.lengths, ()  # who is answered may come again: it is idle
        if is_warm:  # a lane's first call loads and compiles: it says nothing of any other
            self._cost.learn(lengths, loop.time() - lane.started_s)
            self._enough = sharing.enough(self._batch, self._cost.price)
        for row, result in zip(rows, results, strict=True):
            future = self._job(row).future
            if not future.done():  # its caller may be gone: that is nobody else's problem
                future.set_result(result)
                self._counts.answered += 1
        self._observers.tell("on_batch_complete", items, results)
        return None

    def _is_wanted(self, row: policy.Row) -> bool:
        """Whether somebody waits for this row, and may still do so."""
        if row.deadline_s <= self._bound_loop().time():
            self._expire(row)
        return not self._job(row).future.done()

    def _end(self, lane: _Lane, _task: asyncio.Task[None]) -> None:
        """A lane is idle again. Whatever ended it, no caller of its batch is left waiting."""
        self._running.discard(lane)
        for row in lane.rows:
            if not self._job(row).future.done():
                self._drop(row)
        self._pump()
        self._check_drained()

    # Every row ends in exactly one of these, or is answered.

    def _expire(self, row: policy.Row) -> None:
        self._queue.cancel(row)
        error = errors.Expired("the deadline passed before the item was answered")
        self._counts.expired += self._fail(row, error)

    def _drop(self, row: policy.Row) -> None:
        self._queue.cancel(row)
        error = errors.NotReady("its batch ended before the item was answered", retry_after_s=-1)
        self._counts.dropped += self._fail(row, error)

    def _fail(self, row: policy.Row, error: Exception) -> bool:
        future = self._job(row).future
        if future.done():
            return False
        future.set_exception(error)
        return True

    def _settle(self, row: policy.Row, future: asyncio.Future[R]) -> None:
        """The future of a row is done, by us or by a caller that went away."""
        job = self._job(row)
        if job.timer is not None:
            job.timer.cancel()
        if future.cancelled():
            self._counts.cancelled += 1
            self._queue.cancel(row)
        self._check_drained()

    # Closing.

    async def close(self, grace_s: float | None = None) -> None:
        """Refuses new items, answers all that were accepted, then lets the threads go.

        May be called any number of times. What is not answered within `grace_s`, or when this very
        wait is cancelled, is refused then with `errors.NotReady`; None waits for ever.

        Raises:
            errors.InvalidRequest: The batch function itself asks: it would wait for itself.
        """
        if self._loop is not None:
            self._check_place(self._loop)
        self._is_closing = True
        try:
            if self._loop is not None:
                self._pump()
                self._check_drained()
                async with asyncio.timeout(grace_s):
                    await self._drained.wait()
        except TimeoutError:
            tasks = self._abandon()
            if tasks:
                await asyncio.wait(tasks, timeout=ABANDON_S)
        finally:
            self._abandon()
            self._drained.set()  # for whoever else waits
            self._caller.close()

    def _abandon(self) -> set[asyncio.Task[None]]:
        """Frees every caller now, and cancels what runs."""
        for row in self._queue.drain():
            self._drop(row)
        tasks = {lane.task for lane in self._running if lane.task is not None}
        for task in tasks:
            task.cancel()
        for lane in self._running:
            for row in lane.rows:
                self._drop(row)
        return tasks

    def _check_drained(self) -> None:
        if self._is_closing and not self._running and not len(self._queue):
            self._drained.set()

    def _bound_loop(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self._loop)

    @staticmethod
    def _job(row: policy.Row) -> _Job[T, R]:
        return cast("_Job[T, R]", row.payload)


def _tokens(size: SupportsIndex) -> int:
    try:
        tokens = operator.index(size)  # numpy's integers are integers too
    except TypeError:
        tokens = 0
    if tokens < 1:
        raise errors.InvalidRequest(
            f"the `size` of an item must be an integer of at least 1, and is {size!r}"
        )
    return tokens


def _share(batch_tokens: int) -> float:
    """The policy's weight of a flow of weight 1: flows take turns several times a batch.

    The policy's turn is a number of tokens, which would be many batches where an item is one token.
    """
    turn_tokens = max(1.0, batch_tokens / TURNS_PER_BATCH)
    return min(1.0, turn_tokens / shares.QUANTUM)


def _defaults() -> limits.Limits:
    return limits.Limits()


def _observers(given: Iterable[hooks.Hooks]) -> hooks.Observers:
    return hooks.Observers(given)
