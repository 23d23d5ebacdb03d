"""Frames both ways over one socket, many to a system call: what the front and an edge speak.

A worker's lane has one large frame under way (`wire`); here thousands of small ones are, and most
of what one of them costs is the system call.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from bertd import frames

OnFrame = Callable[[frames.Header, memoryview], None]
BUFFER_BYTES = 1 << 18


class Pipe(asyncio.BufferedProtocol):
    """One end of the socket.

    Args:
        on_frame: called with each whole frame; the body is valid only during the call.
        on_lost: called once when the other side has gone, or sent what is no frame.
    """

    def __init__(self, on_frame: OnFrame, on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other process closed the socket or died."""
        self._transport = None
        self._on_lost()

    def send(self, frame: bytes) -> None:
        """Sends a frame, with all others of this turn of the loop; lost if nobody is there."""
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        """Closes the socket after what was sent."""
        if self._transport is not None:
            self._transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Delivers every frame that is whole now, and keeps the rest."""
        self._filled += nbytes
        start, wanted = 0, frames.HEADER.size
        while self._filled - start >= frames.HEADER.size:
            header = frames.decode_header(self._buffer[start : start + frames.HEADER.size])
            wanted = frames.HEADER.size + header.body_bytes
            if self._filled - start < wanted:
                break
            self._on_frame(header, self._buffer[start + frames.HEADER.size : start + wanted])
            start, wanted = start + wanted, frames.HEADER.size
        if start or wanted > len(self._buffer):
            self._keep(start, wanted)

    def _keep(self, start: int, wanted: int) -> None:
        """Moves what is no whole frame yet to the beginning of a buffer that it fits into."""
        rest = bytes(self._buffer[start : self._filled])
        size = max(wanted, BUFFER_BYTES)
        if size != len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        self._buffer[: len(rest)] = rest
        self._filled = len(rest)
