"""What a forward on a device reads and what comes back, each in one transfer.

All integers of a batch lie in one block: written once into pinned memory, copied once. A batch may
be laid into a block of fixed size, as a CUDA graph reads it: dummy rows of the base fill it up,
their tokens attend to each other alone, and nobody reads what they give.

Shapes: T tokens that the block has room for, B rows, D hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bertd.kernels import stack
from bertd.model import packing

BASE_SLOT = 0
STAGED_START_VALUES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The size of a block: tokens, rows (dummies included) and the longest row."""

    tokens: int
    rows: int
    longest: int

    @classmethod
    def of(cls, batch: packing.PackedBatch) -> "Room":
        """Just enough for `batch`."""
        lengths = batch.lengths_B
        return cls(tokens=sum(lengths), rows=len(lengths), longest=max(lengths))

    @property
    def values(self) -> int:
        """Integers of the block."""
        return 4 * self.tokens + 2 * self.rows + 1

    def holds(self, batch: packing.PackedBatch) -> bool:
        """Whether `batch` fits, with dummy rows no longer than `longest` for the rest."""
        spare = self.tokens - sum(batch.lengths_B)
        dummies = -(-spare // self.longest)
        return (
            spare >= 0
            and len(batch.lengths_B) + dummies <= self.rows
            and max(batch.lengths_B) <= self.longest
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """One batch on the device, int32; `offsets` are the tokens at which rows begin, and the end.

    `groups` are the rows of equal length, where attention runs group by group.
    """

    ids_T: torch.Tensor
    types_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    slots_B: torch.Tensor
    offsets: torch.Tensor
    longest: int
    groups: tuple[stack.Group, ...] = ()


def views(block: torch.Tensor, room: Room, groups: tuple[stack.Group, ...] = ()) -> Inputs:
    """The parts of a block."""
    tokens, rows = room.tokens, room.rows
    sizes = [tokens, tokens, tokens, tokens, rows, rows + 1]
    parts = torch.split(block[: room.values], sizes)
    ids_T, types_T, positions_T, slots_T, slots_B, offsets = parts
    return Inputs(
        ids_T=ids_T,
        types_T=types_T,
        positions_T=positions_T,
        slots_T=slots_T,
        slots_B=slots_B,
        offsets=offsets,
        longest=room.longest,
        groups=groups,
    )


def lay(batch: packing.PackedBatch, room: Room, position_offset: int, block: torch.Tensor) -> None:
    """Writes `batch` into a block on the host, dummy rows behind it."""
    parts = views(block, room)
    tokens, rows = sum(batch.lengths_B), len(batch.lengths_B)
    lengths_B = np.array(batch.lengths_B)
    parts.ids_T[:tokens] = batch.ids_T
    parts.types_T[:tokens] = batch.types_T
    parts.positions_T[:tokens] = batch.positions_T
    parts.slots_T[:tokens] = torch.from_numpy(np.repeat(batch.slots_B, lengths_B))
    parts.slots_B[:rows] = torch.tensor(batch.slots_B)
    parts.offsets[0] = 0
    parts.offsets[1 : rows + 1] = torch.from_numpy(np.cumsum(lengths_B))
    ends = tokens + np.arange(1, room.rows - rows + 1) * room.longest
    parts.offsets[rows + 1 :] = torch.from_numpy(np.minimum(ends, room.tokens))
    for part, value in (
        (parts.ids_T, 0),
        (parts.types_T, 0),
        (parts.positions_T, position_offset),
        (parts.slots_T, BASE_SLOT),
    ):
        part[tokens:] = value
    parts.slots_B[rows:] = BASE_SLOT


class Staging:
    """Host memory of one batch in flight: integers on the way out, floats on the way back.

    Pinned where the device is a GPU, so that copies run beside the host. Grows to the largest
    batch seen.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ints = self._pinned(STAGED_START_VALUES, torch.int32)
        self._floats = self._pinned(STAGED_START_VALUES, torch.float32)
        self._done = _event() if device.type == "cuda" else None

    def send(
        self,
        batch: packing.PackedBatch,
        room: Room,
        position_offset: int,
        block: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Starts the copy of a batch to the device, into `block` or a new one; returns the block.

        The memory may be written again only after `receive`.
        """
        if len(self._ints) < room.values:
            self._ints = self._pinned(2 * room.values, torch.int32)
        staged = self._ints[: room.values]
        lay(batch, room, position_offset, staged)
        if block is None:
            return staged.to(self._device, non_blocking=True)
        return block.copy_(staged, non_blocking=True)

    def fetch(self, results: Sequence[torch.Tensor]) -> None:
        """Starts the one copy back of fp32 `results`; `receive` waits for it."""
        flat = torch.cat([result.flatten() for result in results])
        if len(self._floats) < len(flat):
            self._floats = self._pinned(2 * len(flat), torch.float32)
        self._floats[: len(flat)].copy_(flat, non_blocking=True)
        if self._done is not None:
            self._done.record()

    def receive(self, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
        """Waits for what `fetch` started and returns it, in memory of its own."""
        if self._done is not None:
            self._done.synchronize()
        sizes = [shape.numel() for shape in shapes]
        parts = torch.split(self._floats[: sum(sizes)].clone(), sizes)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _pinned(self, values: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(values, dtype=dtype, pin_memory=self._device.type == "cuda")


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
