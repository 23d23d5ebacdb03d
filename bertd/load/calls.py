"""Calls over gRPC at little cost: bytes out, bytes in, nothing retried.

A call costs about 0.11 ms of a core at 64 callers, nearly all of it grpc's, and several times that
where each one wakes a sleeping process. It has no task of its own: its end is noted with the time
in grpc's callback, and one task collects what ended.
"""

import asyncio
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

import grpc
import grpc.aio

from bertd.client import channel, failure
from bertd.load.outcome import Outcome

INFERENCE = "/bertd.v1.Inference/"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended, and when by `time.monotonic`; `problem` says why one failed."""

    outcome: Outcome
    at_s: float
    reply: bytes = b""
    problem: str = ""


Done = Callable[[Ended], None]
_Call = grpc.aio.UnaryUnaryCall[bytes, bytes]


class Calls:
    """One method of one address, over one or several connections; to be used in `async with`.

    Args:
        target: What gRPC calls.
        path: The method, such as `/bertd.v1.Inference/Classify`.
        connections: How many; calls take them in turn.
    """

    def __init__(self, target: str, path: str, *, connections: int = 1) -> None:
        self.address = target
        self._channels = [
            grpc.aio.insecure_channel(target, options=_options()) for _ in range(connections)
        ]
        self._methods = itertools.cycle([_method(each, path) for each in self._channels])
        self._running: set[_Call] = set()
        self._ended: list[tuple[_Call, Done, float]] = []
        self._wake = asyncio.Event()
        self._collector: asyncio.Task[None] | None = None

    def start(self, request: bytes, timeout_s: float, done: Done) -> None:
        """Sends a request; `done` is called once, at a later turn of the loop."""
        call: _Call = next(self._methods)(request, timeout=timeout_s)
        self._running.add(call)
        call.add_done_callback(functools.partial(self._note, done))

    async def one(self, request: bytes, *, timeout_s: float) -> bytes:
        """Sends one request, outside of the load.

        Raises:
            failure.CallError: The daemon refused it or cannot be reached.
        """
        try:
            call: _Call = next(self._methods)(request, timeout=timeout_s)
            return await call
        except grpc.aio.AioRpcError as error:
            raise failure.from_rpc_error(error, address=self.address) from error

    async def __aenter__(self) -> Self:
        self._collector = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._collector:
            self._collector.cancel()
        for call in list(self._running):
            call.cancel()
        for each in self._channels:
            await each.close(None)

    def _note(self, done: Done, call: _Call) -> None:
        self._ended.append((call, done, time.monotonic()))
        self._running.discard(call)
        self._wake.set()

    async def _collect(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ended, self._ended = self._ended, []
            for call, done, at_s in ended:
                done(await _result(call, at_s))


async def _result(call: _Call, at_s: float) -> Ended:
    """What a call ended with; it has, so nothing waits here."""
    try:
        return Ended(Outcome.OK, at_s, reply=await call)
    except grpc.aio.AioRpcError as error:
        return _failed(error, at_s)


def _method(
    connection: grpc.aio.Channel, path: str
) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """Without serializers: bytes are sent and come back as they are."""
    return connection.unary_unary(path, request_serializer=None, response_deserializer=None)


def _failed(error: grpc.aio.AioRpcError, at_s: float) -> Ended:
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Ended(Outcome.EXPIRED, at_s)
    trailers = cast(failure.Failed, error).trailing_metadata()
    if code is grpc.StatusCode.UNAVAILABLE and failure.PUSHBACK_KEY in dict(trailers or ()):
        return Ended(Outcome.REFUSED, at_s)
    return Ended(Outcome.FAILED, at_s, problem=f"{code.name}: {error.details()}")


def _options() -> list[tuple[str, str | int]]:
    """Those of a client, but for retries: a refusal is a result here."""
    return [
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.use_local_subchannel_pool", 1),  # else channels of one address share a connection
        ("grpc.max_receive_message_length", channel.LONGEST_REPLY_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),  # by itself 1 s, growing to 120 s
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", channel.KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", channel.KEEPALIVE_TIMEOUT_MS),
    ]
