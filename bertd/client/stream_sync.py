"""Many calls over one stream, for programs without an event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from typing import Any, ParamSpec, Self, TypeVar

from bertd import errors
from bertd.client import aio, messages, results

P = ParamSpec("P")
Result = TypeVar("Result")


class Stream:
    """Has the client's own methods, and each returns a future at once.

        with client.stream() as stream:
            asked = [stream.classify([text], model="english", adapter="sst2") for text in texts]
            for future in concurrent.futures.as_completed(asked):
                print(future.result()[0].label)

    While `most_items` calls have no answer, a further one waits until one of them has; each is
    answered, or fails, within the client's `timeout_s`. What `future.result()` raises is what the
    client's method would raise: a call that fails hurts no other. Leaving the block waits for every
    call that was made; an exception gives them up.

    May be used by several threads. It is an `AsyncStream` in a thread of its own, which also runs
    the callbacks of futures: they may call its methods, but must not wait for other futures.
    """

    def __init__(self, address: str, *, timeout_s: float, most_items: int) -> None:
        self._room = threading.Semaphore(most_items)
        self._lock = threading.Lock()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="bertd-stream", daemon=True
        )
        self._thread.start()
        opening = self._opened(address, timeout_s)
        self._client = asyncio.run_coroutine_threadsafe(opening, self._loop).result()
        self._stream = self._client.stream(most_items=most_items)

    def classify(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        labels: Sequence[str] = (),
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
        raw_logits: bool = False,
    ) -> futures.Future[results.Classified]:
        """Scores and decided labels of each input; for the arguments see `Client.classify`."""
        return self._begin(
            self._stream.classify,
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            labels=labels,
            truncate=truncate,
            priority=priority,
            raw_logits=raw_logits,
        )

    def embed(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        normalize: bool | None = None,
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
    ) -> futures.Future[results.Floats]:
        """One pooled vector for each input; for the arguments see `Client.embed`."""
        return self._begin(
            self._stream.embed,
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            normalize=normalize,
            truncate=truncate,
            priority=priority,
        )

    def tag(
        self,
        inputs: Sequence[messages.Input],
        *,
        model: str,
        adapter: str = "",
        adapter_bytes: bytes | None = None,
        truncate: bool | None = None,
        priority: messages.Priority = "normal",
        raw_logits: bool = False,
    ) -> futures.Future[results.Tagged]:
        """One label for each token of each input; for the arguments see `Client.tag`."""
        return self._begin(
            self._stream.tag,
            inputs,
            model=model,
            adapter=adapter,
            adapter_bytes=adapter_bytes,
            truncate=truncate,
            priority=priority,
            raw_logits=raw_logits,
        )

    def close(self) -> None:
        """Waits for every call that was made, and ends the stream; no further one is taken."""
        self._end(self._stream.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self._end(self._stream.close if error_type is None else self._stream.abandon)

    def _begin(
        self, ask: Callable[P, Coroutine[Any, Any, Result]], *args: P.args, **named: P.kwargs
    ) -> futures.Future[Result]:
        # A callback does not wait for room, which none but its own thread can make.
        waits = threading.current_thread() is not self._thread
        if waits:
            self._room.acquire()
        try:
            with self._lock:
                if self._is_closed:
                    raise errors.InvalidRequest("the stream is closed", hint="open another one")
                future = asyncio.run_coroutine_threadsafe(ask(*args, **named), self._loop)
        except BaseException:
            if waits:
                self._room.release()
            raise
        if waits:
            future.add_done_callback(lambda _: self._room.release())
        return future

    def _end(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if threading.current_thread() is self._thread:
            raise errors.InvalidRequest("a stream must not be closed in a future's callback")
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._ended(end), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _opened(self, address: str, timeout_s: float) -> aio.AsyncClient:
        return aio.AsyncClient(address, timeout_s=timeout_s)  # grpc takes the loop that runs

    async def _ended(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await end()
        await self._client.close()
