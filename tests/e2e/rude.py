"""Callers that no library would be: they speak HTTP/2 themselves, and never listen."""

import socket
import struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4
_POST, _HTTP = b"\x83", b"\x86"  # of the static table (RFC 7541)
_AUTHORITY, _PATH, _CONTENT_TYPE = b"\x01", b"\x04", b"\x0f\x10"


class Deaf:
    """A connection with no room for a single byte of any reply, and nobody who reads it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._stream = 1
        no_window = struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, no_window))

    def ask(self, path: str, message: bytes) -> None:
        """Sends one call without a deadline."""
        headers = (
            _POST
            + _HTTP
            + b"".join(
                name + _text(value)
                for name, value in (
                    (_PATH, path),
                    (_AUTHORITY, "rude"),
                    (_CONTENT_TYPE, "application/grpc"),
                    (b"\x00" + _text("te"), "trailers"),
                )
            )
        )
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._socket.sendall(
            _frame(_HEADERS, _END_HEADERS, self._stream, headers)
            + _frame(_DATA, _END_STREAM, self._stream, body)
        )
        self._stream += 2

    def close(self) -> None:
        """Leaves without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()
