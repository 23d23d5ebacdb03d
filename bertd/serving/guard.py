"""What surrounds every call: its deadline, its admission, its metrics, and the mapping of errors.

Handlers get a parsed message and a `Call`, return a message (or its bytes), and raise `errors`.
Bytes are parsed here, not by grpc, so that a malformed message is the caller's INVALID_ARGUMENT and
not INTERNAL.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf import message

from bertd import errors, metrics
from bertd.serving import status

DEFAULT_DEADLINE_S = 10.0
# A later deadline counts as this one, so that a connection can be drained in a known time.
LONGEST_DEADLINE_S = 300.0
# A caller whose deadline passes cancels the call, a message's journey before ours passes here.
DEADLINE_SLACK_S = 0.05
# Admission by predicted wait comes first (runtime); these bound the memory of what it has not seen.
MOST_CALLS = 4096
MOST_BYTES = 256 * 1024 * 1024
FULL_RETRY_S = 0.1

Request = TypeVar("Request", bound=message.Message)
Reply = TypeVar("Reply")
# Quoted, because these classes of grpc are generic in its stubs alone.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Method: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
Service: TypeAlias = "grpc.GenericRpcHandler[bytes, bytes]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Where the time of an answered call went."""

    tokenize_s: float
    queue_s: float
    inference_s: float


@dataclass(slots=True, kw_only=True)
class Call:
    """One call while it runs. Its handler fills in whom it asked and where the time went.

    `began_s` and `deadline_s` are on the guard's (monotonic) clock; `own_deadline` tells whether
    the caller set it. `limit_s` is the time it may take where nobody else ends it.
    """

    method: str
    peer: Callable[[], str]
    began_s: float
    deadline_s: float
    own_deadline: bool
    limit_s: float | None = None
    model: str = ""
    adapter: str = ""
    parts: Parts | None = None

    @property
    def caller(self) -> str:
        """The address that it came from, without the port."""
        return address(self.peer())


Unary = Callable[[Request, Call], Awaitable[message.Message | bytes]]
Stream = Callable[[Request], AsyncGenerator[message.Message]]


class Guard:
    """Makes grpc handlers of our own. One per daemon: its bounds hold over all listeners."""

    def __init__(
        self,
        *,
        metrics: metrics.Metrics,
        clock: Callable[[], float] = time.monotonic,
        default_deadline_s: float = DEFAULT_DEADLINE_S,
        most_calls: int = MOST_CALLS,
        most_bytes: int = MOST_BYTES,
        is_memory_short: Callable[[], bool] = lambda: False,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._default_deadline_s = default_deadline_s
        self._most_calls = most_calls
        self._most_bytes = most_bytes
        self._is_memory_short = is_memory_short
        self._calls = 0
        self._bytes = 0
        self._log = structlog.get_logger(__name__)

    def bounded(self, method: str, request_type: type[Request], handle: Unary[Request]) -> Method:
        """As `unary`, and refused while too many other calls are in flight."""
        return self._unary(method, request_type, handle, is_bounded=True)

    def unary(self, method: str, request_type: type[Request], handle: Unary[Request]) -> Method:
        """A handler that is timed, counted and answered with the right status."""
        return self._unary(method, request_type, handle, is_bounded=False)

    async def item(
        self,
        method: str,
        request: Request,
        handle: Unary[Request],
        *,
        size_bytes: int,
        caller: str,
        own_s: float | None,
        ends_s: float,
    ) -> bytes | status.Failure:
        """One call that came inside a stream: as `bounded`, but how it ends is returned.

        Args:
            method: Under which it is counted.
            request: What it asks.
            handle: Who answers.
            size_bytes: Of the message that it came in.
            caller: Who opened the stream.
            own_s: The time that the item itself allows; None: the default.
            ends_s: When the stream ends, and the item with it.
        """
        call = self._begin(method, lambda: caller, own_s)
        call.deadline_s = min(call.deadline_s, ends_s)
        call.limit_s = call.deadline_s - call.began_s
        return await self._ended(handle, request, call, size_bytes)

    def probe(
        self, request_type: type[Request], handle: Callable[[Request], message.Message]
    ) -> Method:
        """A handler for health checks: never refused, never counted, only its errors mapped."""

        async def serve(body: bytes, context: Context) -> bytes:
            try:
                return handle(parse(request_type, body)).SerializeToString()
            except Exception as error:
                await self._abort(context, error, request_type.DESCRIPTOR.name)

        return grpc.unary_unary_rpc_method_handler(serve)

    def watch(self, request_type: type[Request], handle: Stream[Request]) -> Method:
        """As `probe`, for one request and many replies."""

        async def serve(body: bytes, context: Context) -> None:
            try:
                async with aclosing(handle(parse(request_type, body))) as replies:
                    async for reply in replies:
                        if not await told(context, reply.SerializeToString()):
                            return
            except Exception as error:
                await self._abort(context, error, request_type.DESCRIPTOR.name)

        return grpc.unary_stream_rpc_method_handler(serve)

    def failure(
        self, error: BaseException, method: str, left_s: float | None = None
    ) -> status.Failure:
        """What a caller is told of an error: of an unforeseen one only an id, and the log has it.

        `left_s` is what is left of the caller's own deadline, None where it set none.
        """
        if status.is_foreseen(error):
            return status.failure(error, remaining_s=left_s)
        return self._unforeseen(error, method)

    def _unary(
        self, method: str, request_type: type[Request], handle: Unary[Request], *, is_bounded: bool
    ) -> Method:
        def parse_and_handle(body: bytes, call: Call) -> Awaitable[message.Message | bytes]:
            return handle(parse(request_type, body), call)

        async def serve(body: bytes, context: Context) -> bytes:
            call = self._begin(method, context.peer, context.time_remaining())
            size_bytes = len(body) if is_bounded else None
            answer = await self._ended(parse_and_handle, body, call, size_bytes)
            if isinstance(answer, bytes):
                return answer
            await context.abort(answer.code, answer.message, answer.trailers)

        return grpc.unary_unary_rpc_method_handler(serve)

    def _begin(self, method: str, peer: Callable[[], str], own_s: float | None) -> Call:
        """The call; grpc ends it at the caller's own deadline, and we at any other."""
        began_s = self._clock()
        if own_s is None:
            self._metrics.call_without_deadline(method=method)
            limit_s = self._default_deadline_s
        else:
            limit_s = min(own_s, LONGEST_DEADLINE_S)
        return Call(
            method=method,
            peer=peer,
            began_s=began_s,
            deadline_s=began_s + limit_s,
            own_deadline=own_s is not None,
            limit_s=None if own_s == limit_s else limit_s,
        )

    async def _ended(
        self, handle: Unary[Any], request: object, call: Call, size_bytes: int | None
    ) -> bytes | status.Failure:
        """How the call ends; counted. Without a size it takes no place and is never refused."""
        code = grpc.StatusCode.CANCELLED  # unless it lives to be answered
        try:
            if size_bytes is None:
                answer = await self._answer(handle, request, call)
            elif refusal := self._refusal(size_bytes, call):
                answer = refusal
            else:
                self._calls += 1
                self._bytes += size_bytes
                try:
                    answer = await self._answer(handle, request, call)
                finally:
                    self._calls -= 1
                    self._bytes -= size_bytes
            code = grpc.StatusCode.OK if isinstance(answer, bytes) else answer.code
            return answer
        finally:
            self._count(call, code)

    async def _answer(
        self, handle: Unary[Any], request: object, call: Call
    ) -> bytes | status.Failure:
        try:
            work = handle(request, call)
            reply = await (work if call.limit_s is None else _within(call.limit_s, work, call))
            return reply if isinstance(reply, bytes) else reply.SerializeToString()
        except asyncio.CancelledError as error:
            if _is_cancelling():
                raise
            # Somebody's future was cancelled, not this call: it would hang without an answer.
            return self._unforeseen(error, call.method)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic of the tokenizers' Rust code is no Exception
            return self.failure(error, call.method, self._left_s(call))

    def _refusal(self, size_bytes: int, call: Call) -> status.Failure | None:
        """Refuses a call unread, if it must be: nobody knows its model."""
        if self._calls >= self._most_calls or self._bytes + size_bytes > self._most_bytes:
            reason, text = "InFlight", "too many calls are in flight"
        elif self._is_memory_short():
            reason, text = "Memory", "the daemon is at the limit of its memory"
        else:
            return None
        self._metrics.shed(model="", reason=reason)
        error = errors.Overloaded(text, retry_after_s=FULL_RETRY_S)
        return status.failure(error, remaining_s=self._left_s(call))

    def _left_s(self, call: Call) -> float | None:
        return call.deadline_s - self._clock() if call.own_deadline else None

    def _unforeseen(self, error: BaseException, method: str) -> status.Failure:
        error_id = secrets.token_hex(8)
        self._log.error("call failed", method=method, error_id=error_id, exc_info=error)
        return status.internal(error_id)

    async def _abort(self, context: Context, error: Exception, method: str) -> NoReturn:
        failure = self.failure(error, method)
        await context.abort(failure.code, failure.message, failure.trailers)

    def _count(self, call: Call, code: grpc.StatusCode) -> None:
        ended_s = self._clock()
        if code is grpc.StatusCode.CANCELLED and ended_s >= call.deadline_s - DEADLINE_SLACK_S:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        self._metrics.request(
            model=call.model,
            adapter=call.adapter,
            method=call.method,
            code=code.name,
            seconds=ended_s - call.began_s,
        )
        if call.parts and code is grpc.StatusCode.OK:
            self._metrics.request_parts(
                model=call.model,
                method=call.method,
                tokenize_s=call.parts.tokenize_s,
                queue_s=call.parts.queue_s,
                inference_s=call.parts.inference_s,
            )


async def told(context: Context, reply: bytes) -> bool:
    """Whether the caller is still there; that it left, grpc says by errors of several kinds."""
    try:
        await context.write(reply)
    except Exception:
        return False
    return True


def address(peer: str) -> str:
    """Who calls, as grpc names it, without the port that every connection has for itself."""
    address, _, port = peer.rpartition(":")
    return address if peer.startswith(("ipv4:", "ipv6:")) and port.isdigit() else peer


def parse(request_type: type[Request], body: bytes) -> Request:
    """The message.

    Raises:
        errors.InvalidRequest: The bytes are something else.
    """
    try:
        return request_type.FromString(body)
    except message.DecodeError:
        raise errors.InvalidRequest(
            f"the message must be a '{request_type.DESCRIPTOR.full_name}', with text in UTF-8",
            hint="compile your client from the daemon's proto files",
        ) from None


async def _within(limit_s: float, work: Awaitable[Reply], call: Call) -> Reply:
    limit: asyncio.Timeout | None = None
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await work
    except TimeoutError:
        if limit is None or not limit.expired():
            raise
        raise errors.Expired(
            f"the call was not answered within {limit_s:g} s",
            hint="" if call.own_deadline else "set a deadline of your own",
        ) from None
    finally:
        # It knows this task, which keeps the error that ends it, which keeps this frame: a cycle
        # that would hold the call's adapter until it is collected.
        del limit


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
