"""What crosses the border comes out as it went in, and what no peer sends is refused."""

import math
import struct

import numpy as np
import pytest

from bertd import errors, frames

RESULT = frames.Result(
    id=7, seconds=0.5, operations=1e9, vectors=[np.ones((2, 3), np.float32), np.zeros(4, "f")]
)


def parts(frame: bytes) -> tuple[frames.Header, bytearray]:
    """Header and body."""
    return frames.decode_header(frame), bytearray(frame[frames.HEADER.size :])


def test_a_result_comes_back() -> None:
    """Seconds, operations and every array survive the border."""
    header, body = parts(frames.encode_result(RESULT))
    found = frames.decode_result(header, memoryview(body))
    assert (found.id, found.seconds, found.operations) == (7, 0.5, 1e9)
    assert [v.shape for v in found.vectors] == [(2, 3), (1, 4)]


def test_a_batch_comes_back_with_its_threads() -> None:
    """A wide batch says how wide it is, and its arrays are views on the frame."""
    row = (np.array([5, 6], np.int32), np.array([0, 1], np.uint8), 3, frames.Task.EMBED)
    header, body = parts(frames.encode_batch(frames.pack_rows(1, [row, row], threads=4)))
    found = frames.decode_batch(header, memoryview(body))
    assert found.threads == 4
    assert found.ids_T.tolist() == [5, 6, 5, 6]
    assert found.types_T.tolist() == [0, 1, 0, 1]
    assert found.slots_B.tolist() == [3, 3]


def test_another_version_is_refused() -> None:
    """A worker of a version with another layout of frames is told apart by the magic."""
    frame = bytearray(frames.encode_result(RESULT))
    frame[:4] = b"BTD1"
    with pytest.raises(errors.Bug, match="not a frame"):
        frames.decode_header(frame)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (0, "<d", math.nan),
        (0, "<d", math.inf),
        (0, "<d", -1.0),
        (8, "<d", math.nan),
        (8, "<d", -1e9),
        (16, "<i", -1),
        (16, "<i", 1),
        (16, "<i", 2**31 - 1),
        (20, "<i", 0),
    ],
)
def test_numbers_that_no_worker_sends_are_refused(offset: int, layout: str, value: float) -> None:
    """A time that is none would spoil every prediction, and wrong shapes would mix up answers."""
    header, body = parts(frames.encode_result(RESULT))
    struct.pack_into(layout, body, offset, value)
    with pytest.raises(errors.Bug, match="not a result"):
        frames.decode_result(header, memoryview(body))


@pytest.mark.parametrize("size", [0, 8, 16, 24, 40])
def test_a_short_result_is_refused(size: int) -> None:
    """A body that ends early is read no further than it goes."""
    header, body = parts(frames.encode_result(RESULT))
    with pytest.raises((ValueError, struct.error)):
        frames.decode_result(header, memoryview(body)[:size])
