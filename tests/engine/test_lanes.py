"""A lane never leaves the front waiting: what it cannot do ends its connection."""

import socket
import threading
from typing import Any

import pytest
import torch

from bertd import errors, frames
from bertd.engine import worker
from tests import tiny


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


def test_a_gpu_that_is_lost_ends_the_lane() -> None:
    """No batch after it could be computed: the front hears of it, and starts another worker."""
    ours, theirs = socket.socketpair()
    raised: list[Exception] = []

    class Lost:
        def run(self, batch: frames.Batch) -> frames.Result:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def lane() -> None:
        runner: Any = Lost()
        try:
            worker.run_lane(worker.Channel(theirs), runner)
        except torch.AcceleratorError as error:
            raised.append(error)

    thread = threading.Thread(target=lane)
    thread.start()
    ids, types = tiny.rows([3], 99, 2)
    row = (ids[0], types[0], 0, frames.Task.EMBED)
    with ours:
        ours.sendall(frames.encode_batch(frames.pack_rows(1, [row])))
        ours.settimeout(10)
        assert ours.recv(1) == b""
    thread.join()
    assert len(raised) == 1
