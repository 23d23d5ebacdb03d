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
