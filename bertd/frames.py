"""What crosses the border between front and worker: raw integers out, raw floats back.

Every message is one frame: a fixed header and a body of plain little-endian arrays, read in place.
Control messages (load an adapter, free a slot) are small JSON bodies. Nothing here is ever pickled.
The magic changes with every layout: a daemon whose installation was replaced under it refuses the
workers of another version instead of misreading them.

    header   magic "BTD2" | kind u32 | id u64 | rows u32 | values u32 | body bytes u32
    BATCH    threads i32 | lengths, slots, tasks i32[rows] | ids i32[values] | types u8[values]
    RESULT   seconds f64 | operations f64 | shapes i32[rows, 2] | floats f32[values]
    FAILURE  UTF-8 text
    CONTROL  UTF-8 JSON

Between the front and its edge processes:

    RUN      route u64 | deadline f64 | priority f64 | task i32 | lengths i32[rows] | ids, types
    RAN      queue f64 | inference f64 | shapes i32[rows, 2] | floats f32[values]
    CANCEL   nothing: nobody waits for the answer of this id any more
    BRING    route u64 | caller u8[rows] | an adapter file u8[values]
"""

import enum
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertd import errors

HEADER = struct.Struct("<4sIQIII")
SPENT = struct.Struct("<dd")
ASKED = struct.Struct("<Qddi")
ROUTE = struct.Struct("<Q")
MAGIC = b"BTD2"
BODY_MAX_BYTES = 256 << 20
FAILURE_MAX_CHARS = 2_000

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Task(enum.IntEnum):
    """What a row wants: logits of its head, a pooled vector, or logits of every token."""

    CLASSIFY = 0
    EMBED = 1
    TAG = 2


class Kind(enum.IntEnum):
    """The kinds of frame."""

    BATCH = 1
    RESULT = 2
    FAILURE = 3
    CONTROL = 4
    RUN = 5
    RAN = 6
    CANCEL = 7
    BRING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first `HEADER.size` bytes of a frame."""

    kind: Kind
    id: int
    rows: int
    values: int
    body_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows to run: B rows, T tokens of all rows end to end, by so many threads together."""

    id: int
    lengths_B: Ints
    slots_B: Ints
    tasks_B: Ints
    ids_T: Ints
    types_T: NDArray[np.uint8]
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One float32 array per row of the batch, and what computing took.

    `operations` are those of matrix products that the answers needed; 0 where nobody counted.
    """

    id: int
    seconds: float
    operations: float = 0.0
    vectors: list[Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The worker could not run this batch; `message` is for the log, never for a client."""

    id: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The rows (ids, types) of one call of an edge, and who is to answer them until when.

    `route` is the number that the front gave a route, `deadline_s` on the monotonic clock that all
    processes of a machine share.
    """

    route: int
    task: Task
    deadline_s: float
    priority: float
    rows: Sequence[tuple[Ints, NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The answers of one call of an edge, each [n, values], and where its time went."""

    queue_s: float
    inference_s: float
    vectors: list[Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """An adapter file that a call brought to an edge, for the base of a route."""

    route: int
    caller: str
    data: bytes


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Reads a frame's header.

    Raises:
        Bug: the other side does not speak this format.
    """
    magic, kind, id_, rows, values, body_bytes = HEADER.unpack_from(data)
    if magic != MAGIC or body_bytes > BODY_MAX_BYTES or kind not in Kind._value2member_map_:
        raise errors.Bug(f"not a frame: magic {magic!r}, kind {kind}, {body_bytes} bytes")
    return Header(kind=Kind(kind), id=id_, rows=rows, values=values, body_bytes=body_bytes)


def encode_batch(batch: Batch) -> bytes:
    """One BATCH frame."""
    body = b"".join(
        (
            struct.pack("<i", batch.threads),
            batch.lengths_B.tobytes(),
            batch.slots_B.tobytes(),
            batch.tasks_B.tobytes(),
            batch.ids_T.tobytes(),
            batch.types_T.tobytes(),
        )
    )
    return _frame(Kind.BATCH, batch.id, len(batch.lengths_B), len(batch.ids_T), body)


def decode_batch(header: Header, body: memoryview) -> Batch:
    """The arrays of a BATCH frame, as views on `body`."""
    rows, tokens = header.rows, header.values
    threads = int(np.frombuffer(body, np.int32, 1)[0])
    ints = np.frombuffer(body, np.int32, 3 * rows + tokens, offset=4)
    return Batch(
        id=header.id,
        threads=threads,
        lengths_B=ints[:rows],
        slots_B=ints[rows : 2 * rows],
        tasks_B=ints[2 * rows : 3 * rows],
        ids_T=ints[3 * rows :],
        types_T=np.frombuffer(body, np.uint8, tokens, offset=4 + ints.nbytes),
    )


def encode_result(result: Result) -> bytes:
    """One RESULT frame; every vector is [n, values], a plain vector counts as one row."""
    shapes = np.array([(1, *v.shape)[-2:] for v in result.vectors], np.int32)
    floats = b"".join(np.ascontiguousarray(v, np.float32).tobytes() for v in result.vectors)
    body = SPENT.pack(result.seconds, result.operations) + shapes.tobytes() + floats
    return _frame(Kind.RESULT, result.id, len(result.vectors), len(floats) // 4, body)


def decode_result(header: Header, body: memoryview) -> Result:
    """The arrays of a RESULT frame, copied out of `body`; each is [n, values].

    Raises:
        Bug: numbers that no worker of this version sends.
        ValueError: the body is shorter than it says.
    """
    seconds, operations = SPENT.unpack_from(body)
    shapes = np.frombuffer(body, np.int32, 2 * header.rows, offset=SPENT.size).reshape(-1, 2)
    start = SPENT.size + shapes.nbytes
    floats = np.frombuffer(body, np.float32, header.values, offset=start).copy()
    sizes = shapes.astype(np.int64).prod(axis=1)
    sane = 0 <= seconds < math.inf and 0 <= operations < math.inf
    if not sane or (shapes < 0).any() or sizes.sum() != len(floats):
        raise errors.Bug(
            f"not a result: {seconds} s, {operations} operations, {sizes.sum()} values"
        )
    vectors, start = [], 0
    for n, width in shapes.tolist():
        vectors.append(floats[start : start + n * width].reshape(n, width))
        start += n * width
    return Result(id=header.id, seconds=seconds, operations=operations, vectors=vectors)


def encode_run(id_: int, run: Run) -> bytes:
    """One RUN frame."""
    lengths = [len(ids) for ids, _ in run.rows]
    body = b"".join(
        (
            ASKED.pack(run.route, run.deadline_s, run.priority, run.task),
            struct.pack(f"<{len(lengths)}i", *lengths),
            *(ids.tobytes() for ids, _ in run.rows),
            *(types.tobytes() for _, types in run.rows),
        )
    )
    return _frame(Kind.RUN, id_, len(lengths), sum(lengths), body)


def decode_run(header: Header, body: memoryview) -> Run:
    """The rows of a RUN frame, copied out of `body`.

    Raises:
        struct.error, ValueError: the body is shorter than it says.
    """
    data = bytes(body)  # rows wait in a queue, and the buffer does not wait for them
    route, deadline_s, priority, task = ASKED.unpack_from(data)
    lengths = struct.unpack_from(f"<{header.rows}i", data, ASKED.size)
    at = ASKED.size + 4 * header.rows
    types_at = at + 4 * header.values
    rows = []
    for length in lengths:
        ids = np.frombuffer(data, np.int32, length, at)
        rows.append((ids, np.frombuffer(data, np.uint8, length, types_at)))
        at += 4 * length
        types_at += length
    return Run(route=route, task=Task(task), deadline_s=deadline_s, priority=priority, rows=rows)


def encode_ran(id_: int, ran: Ran) -> bytes:
    """One RAN frame; a plain vector counts as one row."""
    shapes = [size for vector in ran.vectors for size in (1, *vector.shape)[-2:]]
    floats = b"".join([vector.tobytes() for vector in ran.vectors])
    head = SPENT.pack(ran.queue_s, ran.inference_s) + struct.pack(f"<{len(shapes)}i", *shapes)
    return _frame(Kind.RAN, id_, len(ran.vectors), len(floats) // 4, head + floats)


def decode_ran(header: Header, body: memoryview) -> Ran:
    """The answers of a RAN frame, copied out of `body`.

    Raises:
        struct.error, ValueError: the body is shorter than it says.
    """
    queue_s, inference_s = SPENT.unpack_from(body)
    shapes = struct.unpack_from(f"<{2 * header.rows}i", body, SPENT.size)
    at = SPENT.size + 8 * header.rows
    floats = np.frombuffer(body, np.float32, header.values, at).copy()
    vectors, start = [], 0
    for n, width in zip(shapes[::2], shapes[1::2], strict=True):
        vectors.append(floats[start : start + n * width].reshape(n, width))
        start += n * width
    return Ran(queue_s=queue_s, inference_s=inference_s, vectors=vectors)


def encode_cancel(id_: int) -> bytes:
    """One CANCEL frame."""
    return _frame(Kind.CANCEL, id_, 0, 0, b"")


def encode_brought(id_: int, brought: Brought) -> bytes:
    """One BRING frame."""
    caller = brought.caller.encode(errors="replace")
    body = b"".join((ROUTE.pack(brought.route), caller, brought.data))
    return _frame(Kind.BRING, id_, len(caller), len(brought.data), body)


def decode_brought(header: Header, body: memoryview) -> Brought:
    """The adapter of a BRING frame, copied out of `body`.

    Raises:
        struct.error: the body is shorter than it says.
    """
    (route,) = ROUTE.unpack_from(body)
    start = ROUTE.size + header.rows
    caller = bytes(body[ROUTE.size : start]).decode()
    return Brought(route=route, caller=caller, data=bytes(body[start : start + header.values]))


def encode_failure(failure: Failure) -> bytes:
    """One FAILURE frame; the text is cut to `FAILURE_MAX_CHARS`."""
    body = failure.message[:FAILURE_MAX_CHARS].encode(errors="replace")
    return _frame(Kind.FAILURE, failure.id, 0, 0, body)


def decode_failure(header: Header, body: memoryview) -> Failure:
    """The text of a FAILURE frame."""
    return Failure(id=header.id, message=bytes(body).decode(errors="replace"))


def encode_control(id_: int, message: dict[str, Any]) -> bytes:
    """One CONTROL frame; a reply carries its request's id."""
    return _frame(Kind.CONTROL, id_, 0, 0, json.dumps(message).encode())


def decode_control(body: memoryview) -> dict[str, Any]:
    """The JSON object of a CONTROL frame."""
    message: dict[str, Any] = json.loads(bytes(body))
    return message


def pack_rows(
    id_: int, rows: Sequence[tuple[Ints, NDArray[np.uint8], int, Task]], threads: int = 1
) -> Batch:
    """Lays rows (ids, types, slot, task) end to end."""
    return Batch(
        id=id_,
        threads=threads,
        lengths_B=np.array([len(row[0]) for row in rows], np.int32),
        slots_B=np.array([row[2] for row in rows], np.int32),
        tasks_B=np.array([row[3] for row in rows], np.int32),
        ids_T=np.concatenate([row[0] for row in rows]),
        types_T=np.concatenate([row[1] for row in rows]),
    )


def _frame(kind: Kind, id_: int, rows: int, values: int, body: bytes) -> bytes:
    return HEADER.pack(MAGIC, kind, id_, rows, values, len(body)) + body
