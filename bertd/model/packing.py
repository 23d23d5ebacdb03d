"""Rows laid end to end: what one forward pass reads.

Shapes: B rows, T tokens of all rows together, i rows of the adapter table that the batch reads.
Neighbouring rows of equal length form one *group*, the unit of attention and of adding biases; sort
rows by length to make groups large.
"""

import functools
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from bertd.kernels import stack


@dataclass(frozen=True, kw_only=True)  # no slots: it caches its groups
class PackedBatch:
    """Integer inputs of one forward, the layers' `stack.Rows` among them.

    `slot_i` has an entry per row, or one where all rows share an adapter; `biased` says which
    tokens each of them reaches. Groups are made when asked for: native code wants none.
    """

    ids_T: torch.Tensor
    types_T: torch.Tensor
    positions_T: torch.Tensor
    slot_i: torch.Tensor
    slots_B: list[int]
    lengths_B: list[int]
    starts_B: torch.Tensor

    @functools.cached_property
    def groups(self) -> tuple[stack.Group, ...]:
        """The rows, in order, neighbours of equal length together."""
        return tuple(_groups(self.lengths_B))

    @property
    def biased(self) -> tuple[stack.Group, ...]:
        """The groups, or all tokens as if they were one row where all rows share an adapter."""
        if len(self.slot_i) == len(self.slots_B) > 1:
            return self.groups
        return (stack.Group(start=0, row=0, rows=1, length=len(self.ids_T)),)


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
    slots = slots_B.tolist()
    one_adapter = slots.count(slots[0]) == len(slots)
    return PackedBatch(
        ids_T=_long(ids_T),
        types_T=_long(types_T),
        positions_T=_long(positions_T),
        slot_i=_long(slots_B[:1] if one_adapter else slots_B),
        slots_B=slots,
        lengths_B=lengths_B.tolist(),
        starts_B=_long(starts_B),
    )


def _groups(lengths: list[int]) -> list[stack.Group]:
    groups, start, row = [], 0, 0
    for length, rows in groupby(lengths):
        group = stack.Group(start=start, row=row, rows=sum(1 for _ in rows), length=length)
        groups.append(group)
        start, row = group.stop, row + group.rows
    return groups


def _long(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))
