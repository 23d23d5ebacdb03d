"""Many calls over one stream: items come with ids, answers leave as they are ready.

One task reads, one writes, and every item has one while it waits for its answer. An item counts
until its answer is on its way to the caller: while too many do, nothing is read, and HTTP/2 makes
the caller wait. So a caller that never reads holds the bounds below and no more.
"""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import message

from bertd import errors
from bertd.serving import guard as guards
from bertd.serving import status
from bertd.v1 import inference_pb2 as pb

METHOD = "Stream"
# A reader that never waits for a slow answer needs as many as a lane computes while one travels.
MOST_ITEMS = 256
# Two of the largest items: the next one is tokenised while one computes.
MOST_INPUTS = 2048
# A connection of the data port is cut 300 s after it was told to go (see `server`), and a stream
# may begin just then: its last items have this much less to be answered.
LIFE_S = 240.0

# Answers that are ready together travel together up to here: every message has a cost of its own.
TOGETHER_BYTES = 256 * 1024

FIELDS: Mapping[str, int] = {each.name: each.number for each in pb.StreamAnswer.DESCRIPTOR.fields}
ANSWERS = pb.StreamResponse.DESCRIPTOR.fields_by_name["answers"].number
LENGTH_DELIMITED = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """What an item may be: the method that it counts as, and who answers it."""

    method: str
    handle: Callable[[Any, guards.Call], Awaitable[message.Message | bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one stream may have unanswered, and for how long it takes more."""

    items: int = MOST_ITEMS
    inputs: int = MOST_INPUTS
    life_s: float = LIFE_S


class Streams:
    """The streams of one daemon, over all its listeners."""

    def __init__(
        self, bounds: Bounds | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._open: set[_Stream] = set()
        self._is_draining = False

    def method(self, guard: guards.Guard, kinds: Mapping[str, Kind]) -> guards.Method:
        """The handler of `Stream`.

        Args:
            guard: What surrounds every item.
            kinds: By the field of StreamItem that holds the question and of StreamAnswer that holds
                the answer.
        """

        async def serve(_: object, context: guards.Context) -> None:
            if self._is_draining:
                await _abort(context, _leaving())
            own_s = context.time_remaining()
            longest_s = guards.LONGEST_DEADLINE_S
            ends_s = self._clock() + (longest_s if own_s is None else min(own_s, longest_s))
            stream = _Stream(guard, kinds, context, self._bounds, ends_s)
            failure = await self._run(stream)
            if failure is not None:
                await _abort(context, failure)

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _run(self, stream: "_Stream") -> status.Failure | None:
        timer = asyncio.get_running_loop().call_later(self._bounds.life_s, stream.drain)
        self._open.add(stream)
        try:
            return await stream.run()
        finally:
            self._open.discard(stream)
            timer.cancel()

    def drain(self) -> None:
        """Ends all streams in order, and refuses new ones: the daemon stops."""
        self._is_draining = True
        for stream in self._open:
            stream.drain()


@dataclass(slots=True)
class _Item:
    """What an item takes of the stream until it is answered; `is_twice`: another has its id."""

    id: int
    inputs: int
    is_twice: bool
    answer: bytes = b""


class _Stream:
    """One stream: what is read becomes tasks, what they answer is written."""

    def __init__(
        self,
        guard: guards.Guard,
        kinds: Mapping[str, Kind],
        context: guards.Context,
        bounds: Bounds,
        ends_s: float,
    ) -> None:
        self._guard = guard
        self._kinds = kinds
        self._context = context
        self._bounds = bounds
        self._ends_s = ends_s
        self._caller = guards.address(context.peer())
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids: set[int] = set()
        self._items = 0
        self._inputs = 0
        self._has_room = asyncio.Event()
        self._answered: collections.deque[_Item] = collections.deque()
        self._has_news = asyncio.Event()  # an answer, or the end
        self._is_closing = False  # nothing more begins
        self._is_broken = False  # nothing more is answered either
        self._failure: status.Failure | None = None

    async def run(self) -> status.Failure | None:
        """Serves until the stream ends; None: with OK."""
        self._reading = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            # A read that waits ends with the call, by itself; none may begin after that.
            self._is_closing = True
            self._has_room.set()
            for task in self._tasks:
                task.cancel()
        return self._failure

    def drain(self) -> None:
        """Begins nothing more, and ends the stream when all that was begun is answered."""
        if not self._is_closing:
            self._close(_leaving())

    # In.

    async def _read(self) -> None:
        try:
            while (body := await self._next()) is not None:
                for asked in guards.parse(pb.StreamRequest, body).items:
                    if not await self._gets_room():
                        return
                    self._begin(asked)
        except Exception as error:
            if not self._is_closing:
                self._is_broken = True
                self._close(self._guard.failure(error, METHOD))

    async def _next(self) -> bytes | None:
        """The next message; None when nothing more is to begin."""
        if not await self._gets_room():
            return None
        body = await self._context.read()
        if isinstance(body, bytes):
            return None if self._is_closing else body  # it comes too late: it never began
        self._close(None)  # all that there was, so that nothing is left to be sent again
        return None

    async def _gets_room(self) -> bool:
        """Waits until one more item may begin; False: never."""
        while not self._is_closing and self._is_full():
            self._has_room.clear()
            await self._has_room.wait()
        return not self._is_closing

    def _is_full(self) -> bool:
        return self._items >= self._bounds.items or self._inputs >= self._bounds.inputs

    def _close(self, failure: status.Failure | None) -> None:
        self._is_closing = True
        self._failure = failure
        self._has_news.set()

    def _begin(self, asked: pb.StreamItem) -> None:
        name = asked.WhichOneof("kind")
        inputs = len(getattr(asked, name).inputs) if name else 0
        item = _Item(asked.id, inputs, asked.id in self._ids)
        self._ids.add(item.id)
        self._items += 1
        self._inputs += item.inputs
        task = asyncio.create_task(self._answer(item, asked, name or ""))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, item: _Item, asked: pb.StreamItem, name: str) -> None:
        kind = self._kind(item, name)
        answer = await self._guard.item(
            kind.method,
            getattr(asked, name, asked),
            kind.handle,
            size_bytes=asked.ByteSize(),
            caller=self._caller,
            own_s=_timeout_s(asked),
            ends_s=self._ends_s,
        )
        item.answer = packed(item.id, name, answer)
        self._answered.append(item)
        self._has_news.set()

    def _kind(self, item: _Item, name: str) -> Kind:
        kind = self._kinds.get(name)
        if kind is None:
            wanted = ", ".join(f"`{each}`" for each in self._kinds)
            error = errors.InvalidRequest(f"an item must hold one of {wanted}, and holds none")
            return Kind(METHOD, _refusing(error))
        if item.is_twice:
            error = errors.InvalidRequest(
                f"the id {item.id} is that of another item of this stream, which has no answer yet",
                reason="DuplicateId",
                hint="give every item an id of its own",
            )
            return Kind(kind.method, _refusing(error))
        return kind

    # Out.

    async def _write(self) -> None:
        while not self._is_broken and (self._items or not self._is_closing):
            if not self._answered:
                self._has_news.clear()
                await self._has_news.wait()
                continue
            items = self._together()
            if not await guards.told(self._context, b"".join(item.answer for item in items)):
                self._failure = None  # nobody is there to hear it
                return
            self._forget(items)

    def _together(self) -> list[_Item]:
        """The next answers that fit into one message, at least one."""
        items = [self._answered.popleft()]
        size = len(items[0].answer)
        while self._answered and size + len(self._answered[0].answer) <= TOGETHER_BYTES:
            items.append(self._answered.popleft())
            size += len(items[-1].answer)
        return items

    def _forget(self, items: list[_Item]) -> None:
        """Counts items no more: their answers are on their way."""
        self._items -= len(items)
        self._inputs -= sum(item.inputs for item in items)
        self._ids.difference_update(item.id for item in items if not item.is_twice)
        self._has_room.set()


def packed(id_: int, name: str, answer: bytes | status.Failure) -> bytes:
    """A StreamResponse of one answer; several, end to end, are one of several answers.

    The reply in it is serialised already, and is not read again for that.
    """
    if isinstance(answer, status.Failure):
        return _field(ANSWERS, pb.StreamAnswer(id=id_, error=_error(answer)).SerializeToString())
    head = pb.StreamAnswer(id=id_).SerializeToString()
    return _field(ANSWERS, head + _field(FIELDS[name], answer))


def _field(number: int, body: bytes) -> bytes:
    """A field that is a message."""
    return b"".join((_varint(number << 3 | LENGTH_DELIMITED), _varint(len(body)), body))


def _error(failure: status.Failure) -> pb.StreamError:
    return pb.StreamError(
        code=failure.code.value[0],
        message=failure.message,
        reason=failure.reason,
        retry_pushback_ms=failure.pushback_ms,
    )


def _varint(number: int) -> bytes:
    """As protobuf writes numbers: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _timeout_s(asked: pb.StreamItem) -> float | None:
    if not asked.HasField("timeout"):
        return None
    return asked.timeout.seconds + asked.timeout.nanos / 1e9


def _refusing(error: errors.Error) -> Callable[[Any, guards.Call], Awaitable[bytes]]:
    async def refuse(_: object, __: guards.Call) -> bytes:
        raise error

    return refuse


def _leaving() -> status.Failure:
    error = errors.NotReady(
        "the stream ends here: whatever has no answer was never begun",
        retry_after_s=0.0,
        hint="send it again on another stream",
    )
    return status.failure(error, remaining_s=None)


async def _abort(context: guards.Context, failure: status.Failure) -> NoReturn:
    await context.abort(failure.code, failure.message, failure.trailers)
