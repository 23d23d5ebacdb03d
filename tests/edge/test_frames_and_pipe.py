"""What crosses between the front and an edge arrives whole, however it was cut on its way."""

import asyncio
import inspect
import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd import frames
from bertd.runtime import described, pipe

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20), min_size=1)


def split(frame: bytes) -> tuple[frames.Header, memoryview]:
    """A frame's header and body."""
    return frames.decode_header(frame), memoryview(frame)[frames.HEADER.size :]


@given(rows=ROWS, number=st.integers(0, 2**64 - 1), task=st.sampled_from(frames.Task))
def test_rows_cross_unchanged(rows: list[list[int]], number: int, task: frames.Task) -> None:
    """Every row of a RUN frame arrives with its ids, its types and who is to answer it."""
    sent = [(np.array(row, np.int32), np.arange(len(row)).astype(np.uint8)) for row in rows]
    run = frames.Run(route=number, task=task, deadline_s=1.5, priority=16.0, rows=sent)
    header, body = split(frames.encode_run(7, run))
    got = frames.decode_run(header, body)
    assert (header.id, got.route, got.task, got.deadline_s, got.priority) == (
        *(7, number, task),
        *(1.5, 16.0),
    )
    assert [ids.tolist() for ids, _ in got.rows] == rows
    assert [types.tolist() for _, types in got.rows] == [list(range(len(row))) for row in rows]


@given(shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_answers_cross_unchanged(shapes: list[tuple[int, int]]) -> None:
    """Every vector of a RAN frame arrives with its shape and values, a plain one as one row."""
    vectors = [np.random.default_rng(1).random(shape, np.float32) for shape in shapes]
    vectors.append(np.array([1.0, 2.0], np.float32))
    ran = frames.Ran(queue_s=0.25, inference_s=0.5, vectors=vectors)
    got = frames.decode_ran(*split(frames.encode_ran(9, ran)))
    assert (got.queue_s, got.inference_s) == (0.25, 0.5)
    assert [v.shape for v in got.vectors] == [*shapes, (1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(got.vectors, vectors[:-1], strict=False))


@pytest.mark.parametrize("caller", ["ipv4:127.0.0.1", "", "über"])
def test_an_adapter_crosses_unchanged(caller: str) -> None:
    """The bytes that a call brought arrive with their caller."""
    brought = frames.Brought(route=3, caller=caller, data=b"\x00\xffx")
    header, body = split(frames.encode_brought(5, brought))
    assert header.id == 5
    assert frames.decode_brought(header, body) == brought


@pytest.mark.parametrize("cut", [1, 8, 40])
def test_a_short_body_is_an_error(cut: int) -> None:
    """A frame that says more than it holds is refused, and nothing beyond it is read."""
    row = (np.zeros(9, np.int32), np.zeros(9, np.uint8))
    run = frames.Run(route=1, task=frames.Task.EMBED, deadline_s=0.0, priority=1.0, rows=[row, row])
    header, body = split(frames.encode_run(1, run))
    with pytest.raises(ValueError, match="buffer"):
        frames.decode_run(header, body[:-cut])


@pytest.mark.parametrize("kind", sorted(described.CLASSES))
def test_every_error_crosses_as_itself(kind: str) -> None:
    """An error of any class arrives with its class, its text and its fields."""
    known = described.CLASSES[kind]
    values = {"hint": "wait", "reason": "Because", "retry_after_s": 0.125}
    takes = inspect.signature(known).parameters
    error = known("it broke", **{name: v for name, v in values.items() if name in takes})
    got = described.raised(described.error(error))
    assert type(got) is known
    assert vars(got) == vars(error)
    assert str(got) == str(error)


class Cut(asyncio.Protocol):
    """Writes bytes as they are."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport


async def piped(received: list[tuple[int, bytes]], lost: list[bool]) -> tuple[pipe.Pipe, Cut]:
    """A pipe that records what it gets, and the other end of its socket."""
    loop = asyncio.get_running_loop()
    end = pipe.Pipe(
        lambda header, body: received.append((header.id, bytes(body))), lambda: lost.append(True)
    )
    ours, theirs = socket.socketpair()
    await loop.create_unix_connection(lambda: end, sock=ours)
    _, other = await loop.create_unix_connection(Cut, sock=theirs)
    return end, other


@pytest.mark.parametrize("step", [1, 7, 31, 32, 33, 1000, 10**9])
async def test_frames_arrive_whole_however_they_are_cut(step: int) -> None:
    """Small, empty and huge frames are delivered once each, in order."""
    received: list[tuple[int, bytes]] = []
    lost: list[bool] = []
    end, other = await piped(received, lost)
    huge = [] if step < 100 else [bytes(3 * pipe.BUFFER_BYTES), b"after"]
    bodies = [b"", b"a" * 5, b"", *(b"%d" % n for n in range(50)), *huge]
    sent = [
        frames.encode_brought(n, frames.Brought(route=n, caller="", data=body))
        for n, body in enumerate(bodies)
    ]
    stream = b"".join(sent)
    for at in range(0, len(stream), step):
        other.transport.write(stream[at : at + step])
        if step < 100:
            await asyncio.sleep(0)
    while len(received) < len(bodies):
        await asyncio.sleep(0)
    assert received == [(n, frames.ROUTE.pack(n) + body) for n, body in enumerate(bodies)]
    other.transport.close()
    while not lost:
        await asyncio.sleep(0)
    end.send(b"nobody is there")
    assert lost == [True]


async def test_what_is_no_frame_ends_the_connection() -> None:
    """A side that does not speak the format is gone at once: nothing is guessed."""
    received: list[tuple[int, bytes]] = []
    lost: list[bool] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    _, other = await piped(received, lost)
    other.transport.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while not lost:
        await asyncio.sleep(0)
    assert received == []
