"""A lane never leaves the front waiting: what it cannot do ends its connection."""

import socket
import threading
from typing import Any

import pytest

from bertd import errors
from bertd.engine import worker


def test_a_lane_that_ends_hangs_up() -> None:
    """Bytes that are no frame end the lane and close its socket, which tells the front."""
    ours, theirs = socket.socketpair()
    raised: list[Exception] = []

    def lane() -> None:
        runner: Any = None  # nothing gets that far
        try:
            worker.run_lane(worker.Channel(theirs), runner)
        except errors.Bug as error:
            raised.append(error)

    thread = threading.Thread(target=lane)
    thread.start()
    with ours:
        ours.sendall(b"x" * 64)
        ours.settimeout(10)
        with pytest.raises(ConnectionResetError):  # it left bytes unread
            ours.recv(1)
    thread.join()
    assert len(raised) == 1
