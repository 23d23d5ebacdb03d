"""Frames over asyncio: the front's end of a worker's sockets."""

import asyncio
from collections.abc import Callable

from bertd import frames

OnFrame = Callable[[frames.Header, memoryview], None]
BODY_START_BYTES = 1 << 16


class FrameProtocol(asyncio.BufferedProtocol):
    """Cuts a byte stream into frames without copying.

    Args:
        on_frame: called with each whole frame; the body is valid only during the call.
        on_lost: called once when the other side has gone.
    """

    def __init__(self, on_frame: OnFrame, on_lost: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._header_buffer = bytearray(frames.HEADER.size)
        self._body_buffer = bytearray(BODY_START_BYTES)
        self._header: frames.Header | None = None
        self._target = memoryview(self._header_buffer)
        self._filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """The rest of what the current header or body still lacks."""
        return self._target[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Delivers a frame as soon as its last byte is here."""
        self._filled += nbytes
        if self._filled < len(self._target):
            return
        if self._header is None:
            self._begin_body(frames.decode_header(self._header_buffer))
        if self._header is not None and self._filled == len(self._target):
            self._deliver(self._header)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker closed the socket or died."""
        self._on_lost()

    def _begin_body(self, header: frames.Header) -> None:
        if header.body_bytes > len(self._body_buffer):
            self._body_buffer = bytearray(header.body_bytes)
        self._header = header
        self._target = memoryview(self._body_buffer)[: header.body_bytes]
        self._filled = 0

    def _deliver(self, header: frames.Header) -> None:
        body = self._target
        self._header = None
        self._target = memoryview(self._header_buffer)
        self._filled = 0
        self._on_frame(header, body)
