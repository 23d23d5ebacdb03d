"""The batcher for programs with threads: the async one, on a loop in a thread of its own."""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Generic, Self, TypeVar

from bertd import errors
from bertd.batcher import aio, counts

T = TypeVar("T")
R = TypeVar("R")


class SyncBatcher(Generic[T, R]):
    """Any thread may ask, and items of all threads share batches.

        with SyncBatcher(Batcher(embed, limits=Limits(max_rows=32))) as batcher:
            vector = batcher.predict("Loved it!", timeout_s=1.0)

    Args:
        batcher: Not opened yet; it lives and ends with this one.

    Raises:
        errors.Conflict: The batcher was opened before.
    """

    def __init__(self, batcher: aio.Batcher[T, R]) -> None:
        self._batcher = batcher
        self._grace_s: float | None = None
        # Whoever holds it may hand something over to the loop, and knows that it will run there:
        # what is `_handed_over` is never without a `_begin` to come, and never after the close.
        self._lock = threading.Lock()
        self._handed_over: list[Callable[[], None]] = []
        self._is_closed = False
        started: futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = futures.Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="batcher-loop", daemon=True
        )
        self._thread.start()
        self._loop, self._stop = started.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counts(self) -> counts.Counts:
        """What became of every item so far."""
        return self._batcher.counts

    def predict(
        self, item: T, *, timeout_s: float | None = None, flow: str = "", weight: float = 1.0
    ) -> R:
        """Waits for the result of one item; see `Batcher.submit` for what it takes and raises."""
        answer = self.submit(item, timeout_s=timeout_s, flow=flow, weight=weight)
        try:
            return answer.result()
        finally:
            answer.cancel()  # of a caller that was interrupted; else it is done
            del answer  # an error's traceback holds this frame

    def submit(
        self, item: T, *, timeout_s: float | None = None, flow: str = "", weight: float = 1.0
    ) -> futures.Future[R]:
        """Hands one item over; the future has the result or the refusal, and may be cancelled.

        Raises:
            errors.NotReady: The batcher is closing or closed.
            errors.InvalidRequest: The batch function or a hook asks: it would wait for itself.
        """
        self._check_place()
        answer: futures.Future[R] = futures.Future()
        deadline_s = None if timeout_s is None else self._loop.time() + timeout_s
        ask = functools.partial(self._ask, answer, item, deadline_s, flow, weight)
        with self._lock:
            if self._is_closed:
                raise errors.NotReady("the batcher is closed", retry_after_s=-1)
            if not self._handed_over:  # waking the loop costs more than the rest
                self._loop.call_soon_threadsafe(self._begin)
            self._handed_over.append(ask)
        return answer

    def close(self, grace_s: float | None = None) -> None:
        """Refuses new items and waits for the answers of all others; see `Batcher.close`.

        May be called any number of times, from any thread; the first call's `grace_s` counts.

        Raises:
            errors.InvalidRequest: The batch function or a hook asks: it would wait for itself.
        """
        self._check_place()
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._grace_s = grace_s
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _check_place(self) -> None:
        if self._batcher.is_inside or threading.current_thread() is self._thread:
            raise errors.InvalidRequest(
                "a batch function or a hook must not wait for its own batcher"
            )

    # On the loop's thread.

    async def _serve(
        self, started: futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
    ) -> None:
        stop = asyncio.Event()
        try:
            self._batcher.open()
        except errors.Error as error:
            started.set_exception(error)
            return
        started.set_result((asyncio.get_running_loop(), stop))
        try:
            await stop.wait()
        finally:
            with self._lock:
                self._is_closed = True
            await asyncio.sleep(0)  # whatever was handed over before has begun after this turn
            await self._batcher.close(self._grace_s)

    def _begin(self) -> None:
        with self._lock:
            handed_over, self._handed_over = self._handed_over, []
        for ask in handed_over:
            ask()

    def _ask(
        self,
        answer: futures.Future[R],
        item: T,
        deadline_s: float | None,
        flow: str,
        weight: float,
    ) -> None:
        timeout_s = None if deadline_s is None else deadline_s - self._loop.time()
        try:
            future = self._batcher.schedule(item, timeout_s=timeout_s, flow=flow, weight=weight)
        except BaseException as error:  # also what a `size` raises to end a program: it is not here
            _finish(answer, error=error)
            return
        future.add_done_callback(functools.partial(_copy, answer))
        answer.add_done_callback(functools.partial(self._withdraw, future))

    def _withdraw(self, future: asyncio.Future[R], answer: futures.Future[R]) -> None:
        """Runs in the thread that cancelled, or on the loop where nothing is left to do."""
        if answer.cancelled():
            try:
                self._loop.call_soon_threadsafe(future.cancel)
            except RuntimeError:
                return  # the loop is closed, and with it all that waited


def _copy(answer: futures.Future[R], future: asyncio.Future[R]) -> None:
    if future.cancelled():
        answer.cancel()
    elif (error := future.exception()) is not None:
        _finish(answer, error=error)
    elif answer.set_running_or_notify_cancel():
        answer.set_result(future.result())


def _finish(answer: futures.Future[R], *, error: BaseException) -> None:
    # From here on a cancellation comes too late, so that nobody finishes a future twice.
    if answer.set_running_or_notify_cancel():
        answer.set_exception(error)
