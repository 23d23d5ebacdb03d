"""Numpy items of unequal shape in one array, and outputs cut apart so that mates leave no trace.

packed = padding.pad(items, fill=0)            # items: [length] or [rows, length]
hidden = model(packed.array, packed.mask)      # [all rows, longest, width]
return packed.unpad(hidden)                    # each [length, width], as if it ran alone
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertd import errors

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packed:
    """Items in one array, and what is needed to take outputs apart again.

    Attributes:
        array: [all rows, ...]
        mask: [all rows, longest], true where an item's own values are; None of `concat`.
        rows: Of each item.
        lengths: Of each item along its last axis; none of `concat`.
        is_row: Whether an item came without an axis of rows, and so gets its outputs back.
    """

    array: Array
    mask: NDArray[np.bool_] | None
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    is_row: tuple[bool, ...]

    def split(self, output: Array) -> list[Array]:
        """Each item's rows of an output [all rows, ...], such as one vector per row.

        Raises:
            errors.InvalidRequest: The output has another number of rows.
        """
        values = np.asarray(output)
        if values.ndim < 1 or len(values) != sum(self.rows):
            raise errors.InvalidRequest(
                f"an output must have {sum(self.rows)} rows, and has the shape {values.shape}"
            )
        parts = np.split(values, np.cumsum(self.rows)[:-1]) if self.rows else []
        return [part[0] if alone else part for part, alone in zip(parts, self.is_row, strict=True)]

    def unpad(self, output: Array, *, axis: int = 1) -> list[Array]:
        """Like `split`, for outputs with one value or vector per position: padding is cut off.

        Args:
            output: [all rows, longest, ...]
            axis: Which axis of `output` is the positions.

        Raises:
            errors.InvalidRequest: The output has another shape, or nothing was padded.
        """
        values = np.asarray(output)
        if self.mask is None:
            raise errors.InvalidRequest("`concat` pads nothing", hint="use `split`")
        longest = self.mask.shape[1]
        if not 1 <= axis < values.ndim or values.shape[axis] != longest:
            raise errors.InvalidRequest(
                f"axis {axis} of an output must have {longest} positions, and the output has the "
                f"shape {values.shape}"
            )
        parts = self.split(values)
        cuts = zip(parts, self.lengths, self.is_row, strict=True)
        return [
            part[(slice(None),) * (axis - alone) + (slice(length),)] for part, length, alone in cuts
        ]


def concat(items: Sequence[Array]) -> Packed:
    """Items [rows, ...], equal but for their rows, one after the other: [all rows, ...].

    Raises:
        errors.InvalidRequest: There are no items, or they differ in more than rows or in type.
    """
    arrays = _arrays(items, least_axes=1)
    if len({array.shape[1:] for array in arrays}) > 1:
        raise errors.InvalidRequest(
            f"items must be equal but for their rows, and have the shapes {_shapes(arrays)}",
            hint="use `pad`",
        )
    return Packed(
        array=np.concatenate(arrays),
        mask=None,
        rows=tuple(len(array) for array in arrays),
        lengths=(),
        is_row=(False,) * len(arrays),
    )


def pad(items: Sequence[Array], *, fill: float) -> Packed:
    """Items [length] or [rows, length], filled up to the longest: [all rows, longest].

    Args:
        items: Of one type, which the result keeps.
        fill: The value of padding; must be a value of that type, so no NaN among integers.

    Raises:
        errors.InvalidRequest: There are no items, one has another number of axes, they differ in
            type, or their type cannot hold `fill`.
    """
    arrays = _arrays(items, least_axes=1)
    if any(array.ndim > 2 for array in arrays):
        raise errors.InvalidRequest(
            f"items must be [length] or [rows, length], and have the shapes {_shapes(arrays)}"
        )
    rows = tuple(1 if array.ndim == 1 else len(array) for array in arrays)
    lengths = tuple(array.shape[-1] for array in arrays)
    shape = sum(rows), max(lengths)
    padded = np.full(shape, _fill(fill, arrays[0].dtype), arrays[0].dtype)
    mask = np.zeros(shape, np.bool_)
    start = 0
    for array, count, length in zip(arrays, rows, lengths, strict=True):
        padded[start : start + count, :length] = array
        mask[start : start + count, :length] = True
        start += count
    return Packed(
        array=padded,
        mask=mask,
        rows=rows,
        lengths=lengths,
        is_row=tuple(array.ndim == 1 for array in arrays),
    )


def _arrays(items: Sequence[Array], *, least_axes: int) -> list[Array]:
    arrays = [np.asarray(item) for item in items]
    if not arrays:
        raise errors.InvalidRequest("there must be at least one item")
    if any(array.ndim < least_axes for array in arrays):
        raise errors.InvalidRequest(f"items must have axes, and have the shapes {_shapes(arrays)}")
    if len({array.dtype for array in arrays}) > 1:
        raise errors.InvalidRequest(
            f"items must be of one type, and are {sorted({str(each.dtype) for each in arrays})}"
        )
    return arrays


def _fill(fill: float, dtype: np.dtype[Any]) -> Array:
    """The padding as a value of the type; among floats the nearest one, else itself."""
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(fill).astype(dtype)
        is_kept = np.isfinite(value) == np.isfinite(fill) if dtype.kind == "f" else value == fill
    except (TypeError, ValueError, OverflowError):
        is_kept = np.False_
    if not is_kept:
        raise errors.InvalidRequest(f"`fill` must be a value of {dtype}, and is {fill!r}")
    return value


def _shapes(arrays: Sequence[Array]) -> str:
    return ", ".join(str(array.shape) for array in arrays[:8])
