"""Rows laid end to end: what one forward pass reads.

Shapes: B rows, T tokens of all rows together, i rows of the adapter table that the batch reads.
Neighbouring rows of equal length form one *group*, the unit of attention and of adding biases; sort
rows by length to make groups large.
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`rows` neighbouring rows of `length` tokens each, from token `start` and row `row` on."""

    start: int
    row: int
    rows: int
    length: int

    @property
    def stop(self) -> int:
        """One past the group's last token."""
        return self.start + self.rows * self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """Integer inputs of one forward.

    `slot_i` has an entry per row, or one where all rows share an adapter; `biased` says which
    tokens each of them reaches: the groups, or one group of all tokens as if they were one row.
    """

    ids_T: torch.Tensor
    types_T: torch.Tensor
    positions_T: torch.Tensor
    slot_i: torch.Tensor
    biased: tuple[Group, ...]
    slots_B: list[int]
    lengths_B: list[int]
    starts_B: torch.Tensor
    groups: tuple[Group, ...]


def pack(
    *,
    ids_T: NDArray[np.int32],
    types_T: NDArray[np.uint8],
    lengths_B: NDArray[np.int32],
    slots_B: NDArray[np.int32],
    position_offset: int,
) -> PackedBatch:
    """Prepares rows of any lengths and adapters for one forward.

    Args:
        ids_T: token ids of all rows, end to end, in row order.
        types_T: segment of each token.
        lengths_B: tokens of each row; they sum to T.
        slots_B: adapter slot of each row; 0 is the base alone.
        position_offset: position id of a row's first token (2 for RoBERTa-like families).
    """
    starts_B = np.cumsum(lengths_B) - lengths_B
    positions_T = np.arange(len(ids_T)) - np.repeat(starts_B, lengths_B) + position_offset
    groups = tuple(_groups(lengths_B.tolist()))
    one_adapter = bool((slots_B == slots_B[0]).all())
    everything = Group(start=0, row=0, rows=1, length=len(ids_T))
    return PackedBatch(
        ids_T=_long(ids_T),
        types_T=_long(types_T),
        positions_T=_long(positions_T),
        slot_i=_long(slots_B[:1] if one_adapter else slots_B),
        biased=(everything,) if one_adapter else groups,
        slots_B=slots_B.tolist(),
        lengths_B=lengths_B.tolist(),
        starts_B=_long(starts_B),
        groups=groups,
    )


def _groups(lengths: list[int]) -> list[Group]:
    groups, start, row = [], 0, 0
    for length, rows in groupby(lengths):
        group = Group(start=start, row=row, rows=sum(1 for _ in rows), length=length)
        groups.append(group)
        start, row = group.stop, row + group.rows
    return groups


def _long(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))
