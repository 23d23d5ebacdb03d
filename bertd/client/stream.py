"""Many calls over one stream, for asyncio."""

import asyncio
import collections
import contextlib
import functools
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.protobuf import message

from bertd import errors
from bertd.client import asking, channel, failure
from bertd.v1 import inference_pb2 as pb

# Half of what the daemon takes of one stream before it stops reading.
MOST_ITEMS = 128
# Items that are ready together travel together up to here, far below the largest message.
TOGETHER_BYTES = 256 * 1024


class AsyncStream(asking.Asking):
    """Has the client's own methods: call many at once, each is answered as soon as it is ready.

        async with client.stream() as stream:
            calls = [stream.classify([text], model="english", adapter="sst2") for text in texts]
            for answer in await asyncio.gather(*calls):
                print(answer[0].label)

    At most `most_items` are on their way; further calls wait, and their time runs from when they
    are sent. A call that fails raises `failure.CallError` as the client's does, and hurts no other;
    what the daemon refuses for now is sent again, as the client would. When the daemon ends the
    stream (it does from time to time), or the connection breaks, whatever has no answer goes over
    another one. Leaving the block waits for every call that was made; an exception gives them up.

    A stream lives as long as its client, and in its event loop.
    """

    def __init__(
        self,
        open_: Callable[[AsyncIterator[pb.StreamRequest]], Any],
        *,
        address: str,
        timeout_s: float,
        most_items: int,
    ) -> None:
        self._open = open_
        self._address = address
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(most_items)
        self._ids = itertools.count(1)
        self._asked: set[asyncio.Future[None]] = set()
        self._link: _Link | None = None
        self._is_closed = False
        self._given_up = asyncio.Event()

    async def close(self) -> None:
        """Waits for every call that was made, and ends the stream; no further one is taken."""
        self._is_closed = True
        while self._asked:
            await asyncio.wait(self._asked)
        if self._link is not None:
            await self._link.end()

    async def abandon(self) -> None:
        """Gives up every call that was made, and ends the stream."""
        self._given_up.set()
        if self._link is not None:
            self._link.call.cancel()
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, error_type: object, *_: object) -> None:
        await (self.close() if error_type is None else self.abandon())

    async def _ask(self, kind: str, request: message.Message) -> Any:
        if self._is_closed:
            raise errors.InvalidRequest("the stream is closed", hint="open another one")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.add(done)
        try:
            async with self._room:
                return await self._in_time(kind, request)
        finally:
            self._asked.discard(done)
            done.set_result(None)

    async def _in_time(self, kind: str, request: message.Message) -> Any:
        ends_s = time.monotonic() + self._timeout_s
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._until_answered(kind, request, ends_s)
        except TimeoutError:
            raise failure.CallError(
                "DEADLINE_EXCEEDED", f"the call was not answered within {self._timeout_s:g} s"
            ) from None

    async def _until_answered(self, kind: str, request: message.Message, ends_s: float) -> Any:
        """Sends it until it is answered, or until sending it again cannot help."""
        attempt = 0
        while True:
            link = self._current()
            try:
                return await self._once(link, kind, request, ends_s - time.monotonic())
            except failure.CallError as error:
                # A stream that served and then ended is no refusal of what it had not begun.
                attempt += not (link.is_over and link.has_answered)
                wait_s = channel.retry_wait_s(error.code, error.retry_after_s, attempt=attempt)
                if wait_s is None or time.monotonic() + wait_s >= ends_s:
                    raise
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._given_up.wait(), wait_s)

    def _current(self) -> "_Link":
        if self._given_up.is_set():
            raise _given_up()
        if self._link is None or self._link.is_over:
            self._link = _Link.over(self._open, self._address)
        return self._link

    async def _once(self, link: "_Link", kind: str, request: message.Message, left_s: float) -> Any:
        item = pb.StreamItem(id=next(self._ids))
        getattr(item, kind).CopyFrom(request)
        item.timeout.FromMicroseconds(max(0, int(left_s * 1e6)))
        reply = await link.ask(item)
        if reply.HasField("error"):
            raise failure.from_item(reply.error)
        return getattr(reply, kind)


@dataclass(slots=True, kw_only=True)
class _Link:
    """One stream as grpc sees it; it ends once, and then fails whatever it has not answered."""

    address: str
    call: Any = None
    is_over: bool = False
    has_answered: bool = False
    is_ending: bool = False
    outgoing: collections.deque[pb.StreamItem] = field(default_factory=collections.deque)
    has_news: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: dict[int, asyncio.Future[pb.StreamAnswer]] = field(default_factory=dict)
    reading: asyncio.Task[None] | None = None

    @classmethod
    def over(cls, open_: Callable[[AsyncIterator[pb.StreamRequest]], Any], address: str) -> "_Link":
        """A new one."""
        link = cls(address=address)
        link.call = open_(link._requests())
        link.reading = asyncio.create_task(link._read())
        return link

    async def ask(self, item: pb.StreamItem) -> pb.StreamAnswer:
        """Sends an item and waits for its answer."""
        answer: asyncio.Future[pb.StreamAnswer] = asyncio.get_running_loop().create_future()
        self.waiting[item.id] = answer
        self.outgoing.append(item)
        self.has_news.set()
        try:
            return await answer
        finally:
            self.waiting.pop(item.id, None)

    async def end(self) -> None:
        """Sends nothing more, and waits until the daemon has ended it."""
        self._send_no_more()
        if self.reading is not None:
            await self.reading

    async def _requests(self) -> AsyncIterator[pb.StreamRequest]:
        while self.outgoing or not self.is_ending:
            if self.outgoing:
                yield pb.StreamRequest(items=_together(self.outgoing))
            else:
                self.has_news.clear()
                await self.has_news.wait()

    def _send_no_more(self) -> None:
        self.is_ending = True
        self.has_news.set()

    async def _read(self) -> None:
        error: Callable[[], failure.CallError] = _given_up
        try:
            async for reply in self.call:
                self.has_answered = True
                for each in reply.answers:
                    answer = self.waiting.get(each.id)
                    if answer is not None and not answer.done():  # nobody may want it any more
                        answer.set_result(each)
        except grpc.RpcError as why:
            error = functools.partial(_ended, why, self.address)
        except asyncio.CancelledError:
            if not self.call.cancelled():
                raise
        finally:
            self._over(error)

    def _over(self, error: Callable[[], failure.CallError]) -> None:
        self.is_over = True
        self.outgoing.clear()
        self._send_no_more()  # so that grpc stops waiting for more
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(error())


def _together(outgoing: collections.deque[pb.StreamItem]) -> list[pb.StreamItem]:
    """The next items that fit into one message, at least one."""
    items = [outgoing.popleft()]
    size = items[0].ByteSize()
    while outgoing and size + outgoing[0].ByteSize() <= TOGETHER_BYTES:
        items.append(outgoing.popleft())
        size += items[-1].ByteSize()
    return items


def _ended(why: grpc.RpcError, address: str) -> failure.CallError:
    """Why a stream ended; grpc.aio calls it INTERNAL where it was just sending something."""
    error = failure.from_rpc_error(why, address=address)
    if error.code != "INTERNAL" or error.reason:
        return error
    text = "the stream ended while something was sent: it was never begun"
    return failure.CallError("UNAVAILABLE", text, reason="StreamEnded", retry_after_s=0.001)


def _given_up() -> failure.CallError:
    return failure.CallError("CANCELLED", "the stream was given up")
