"""Rows of one call on their way through a revision, and what their caller waits for."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertd import frames
from bertd.batching import policy
from bertd.runtime import slots
from bertd.tokenization import tokenizer

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The answers of one call, in input order, and where its time went.

    `queue_s` and `inference_s` are those of its slowest row.
    """

    vectors: list[Floats]
    queue_s: float
    inference_s: float


class Call:
    """All rows of one request: all answered, or the request fails as a whole."""

    __slots__ = ("_inference_s", "_queue_s", "_remaining", "_vectors", "future", "rows")

    def __init__(self, future: asyncio.Future[Ran], size: int) -> None:
        self.future = future
        self.rows: list[policy.Row] = []
        self._vectors: list[Floats | None] = [None] * size
        self._remaining = size
        self._queue_s = 0.0
        self._inference_s = 0.0

    def answer(self, index: int, vector: Floats, queue_s: float, inference_s: float) -> None:
        """Files one row's result; the last one wakes the caller."""
        self._vectors[index] = vector
        self._remaining -= 1
        self._queue_s = max(self._queue_s, queue_s)
        self._inference_s = max(self._inference_s, inference_s)
        if self._remaining == 0 and not self.future.done():
            vectors = [v for v in self._vectors if v is not None]
            ran = Ran(vectors=vectors, queue_s=self._queue_s, inference_s=self._inference_s)
            self.future.set_result(ran)

    def fail(self, error: Exception) -> None:
        """Fails the whole call; later results of its other rows are dropped."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """What a row carries: its tokens, where the answer goes, and what happened to it so far."""

    call: Call
    index: int
    encoded: tokenizer.Encoded
    entry: slots.Entry
    task: frames.Task
    started_s: float = 0.0
    deaths: int = 0  # workers that died while running it


def job(row: policy.Row) -> Job:
    """The job that a row of this room carries."""
    assert isinstance(row.payload, Job)  # only this room makes rows
    return row.payload


def frame(id_: int, rows: Sequence[policy.Row], threads: int = 1) -> bytes:
    """The BATCH frame of these rows, to run on so many threads."""
    jobs = [job(row) for row in rows]
    packed = [(j.encoded.ids, j.encoded.type_ids, j.entry.slot, j.task) for j in jobs]
    return frames.encode_batch(frames.pack_rows(id_, packed, threads))
