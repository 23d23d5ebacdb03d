"""The two ways to ask a server, as light as Python allows: bytes out, an outcome and bytes back."""

import asyncio
import enum
from typing import Protocol, cast

import grpc
import grpc.aio


class Outcome(enum.IntEnum):
    """How a call ended."""

    ANSWERED = 0
    REFUSED = 1  # at once, because there is too much work
    EXPIRED = 2  # its deadline passed first
    FAILED = 3


STATUSES = {
    grpc.StatusCode.UNAVAILABLE: Outcome.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.REFUSED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.EXPIRED,
}
CODES = {
    200: Outcome.ANSWERED,
    429: Outcome.REFUSED,
    503: Outcome.REFUSED,
    408: Outcome.EXPIRED,
    504: Outcome.EXPIRED,
}


class Transport(Protocol):
    """A connection, or as many as calls need."""

    async def call(self, request: bytes, timeout_s: float) -> tuple[Outcome, bytes]:
        """Asks once, and never again by itself."""

    async def close(self) -> None:
        """Lets go of all connections."""


def connect(protocol: str, port: int, target: str) -> Transport:
    """A transport to a server of this machine."""
    return Grpc(port, target) if protocol == "grpc" else Http(port)


class Grpc:
    """One channel."""

    def __init__(self, port: int, method: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]
        )
        self._ask = self._channel.unary_unary(method)

    async def call(self, request: bytes, timeout_s: float) -> tuple[Outcome, bytes]:
        """Asks; the server is told the timeout."""
        try:
            return Outcome.ANSWERED, await self._ask(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNAVAILABLE and "expired" in (error.details() or ""):
                code = grpc.StatusCode.DEADLINE_EXCEEDED  # Triton's word for it
            return STATUSES.get(code, Outcome.FAILED), (error.details() or "").encode()

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()


class Http:
    """A connection for every call that is under way, kept for those that follow."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def call(self, request: bytes, timeout_s: float) -> tuple[Outcome, bytes]:
        """Asks; a caller whose time is over hangs up."""
        connection = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connection()
                code, body = await connection.ask(request)
        except TimeoutError:
            if connection is not None:
                connection.hang_up()
            return Outcome.EXPIRED, b""
        except OSError as error:
            return Outcome.FAILED, str(error).encode()
        self._idle.append(connection)
        return CODES.get(code, Outcome.FAILED), body

    async def close(self) -> None:
        """Hangs up."""
        for connection in self._idle:
            connection.hang_up()

    async def _connection(self) -> "_Connection":
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        return connection


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one call at a time, answers of a declared length."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps what to write to."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    @property
    def is_open(self) -> bool:
        """Whether another call may be sent."""
        return not self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body.

        Raises:
            ConnectionError: the server hung up.
        """
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def hang_up(self) -> None:
        """Closes without another word."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Wakes the caller when the answer is whole."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._waiting is None or self._waiting.done():
            return
        head = bytes(self._received[:end]).lower()
        size = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not size:
            self._waiting.set_exception(ConnectionError("an answer of no declared length"))
        elif len(self._received) >= (whole := end + 4 + int(size)):
            body = bytes(self._received[end + 4 : whole])
            del self._received[:whole]
            self._waiting.set_result((int(head.split(b" ", 2)[1]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the caller."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(f"the server hung up: {exc}"))
