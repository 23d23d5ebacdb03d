"""Arrays of unequal shape share one call and part again without a trace."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.batcher import buckets, padding


def sequence(length: int, *, rows: int | None = None) -> padding.Array:
    """1, 2, 3, ... of the length; as many times as rows, if any."""
    one = np.arange(1, length + 1)
    return one if rows is None else np.tile(one, (rows, 1))


def test_sequences_are_padded_to_the_longest_and_cut_back() -> None:
    """An output per position comes back as long as its item, whoever shared the batch (D7).

    The predecessor gave length 4 for length 2.
    """
    items = [sequence(2), sequence(4), sequence(3, rows=2)]
    packed = padding.pad(items, fill=0)
    assert packed.array.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [1, 2, 3, 0], [1, 2, 3, 0]]
    assert packed.mask is not None
    assert (packed.mask == (packed.array != 0)).all()
    hidden = np.stack([packed.array, 10 * packed.array], axis=-1)
    for item, output in zip(items, packed.unpad(hidden), strict=True):
        assert output.shape == (*item.shape, 2)
        assert (output[..., 1] == 10 * item).all()


def test_an_output_per_row_is_split_and_not_cut() -> None:
    """A vector per row stays whole, even one that is as wide as the longest item."""
    items = [sequence(2), sequence(4, rows=2)]
    packed = padding.pad(items, fill=0)
    pooled = np.arange(12).reshape(3, 4)
    alone, pair = packed.split(pooled)
    assert alone.tolist() == [0, 1, 2, 3]
    assert pair.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_positions_may_be_another_axis() -> None:
    """Outputs such as [rows, heads, positions] are cut where they are told to be."""
    packed = padding.pad([sequence(1), sequence(3)], fill=0)
    short, long = packed.unpad(np.zeros((2, 5, 3)), axis=2)
    assert (short.shape, long.shape) == ((5, 1), (5, 3))


def test_equal_arrays_are_concatenated_and_split() -> None:
    """Requests of 1, 3 and 0 rows run as four rows and get their own back."""
    items = [np.full((rows, 2), rows) for rows in (1, 3, 0)]
    packed = padding.concat(items)
    assert packed.array.shape == (4, 2)
    parts = packed.split(packed.array.sum(axis=1))
    assert [part.tolist() for part in parts] == [[2], [6, 6, 6], []]


def test_the_predecessors_own_bucket_case() -> None:
    """Lengths 8, 4, 9, 5, 2 in buckets 3 and 5 run as three calls of its very shapes (D8)."""
    items = [sequence(length, rows=1) for length in (8, 4, 9, 5, 2)]
    groups = buckets.group([item.shape[1] for item in items], [3, 5])
    packs = [padding.pad([items[i] for i in group], fill=0) for group in groups]
    assert [pack.array.shape for pack in packs] == [(1, 2), (2, 5), (2, 9)]
    restored = buckets.restore(groups, [pack.unpad(pack.array) for pack in packs])
    assert all((a == b).all() for a, b in zip(restored, items, strict=True))


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [(np.nan, "int64"), (-1, "uint8"), (0.5, "int32"), (1e39, "float32"), (300, "int8"),
     (None, "int64"), ("x", "float32"), (2, "bool")],
)  # fmt: skip
def test_padding_must_be_a_value_of_the_items_type(fill: Any, dtype: str) -> None:
    """No NaN among integers and no silent wrap-around (the predecessor padded with NaN)."""
    with pytest.raises(errors.InvalidRequest, match="fill"):
        padding.pad([np.ones(2, dtype), np.ones(1, dtype)], fill=fill)


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [(0.1, "float16"), (np.nan, "float32"), (-np.inf, "float32"), (255, "uint8"), (1, "bool")],
)
def test_padding_that_the_type_can_hold_is_used(fill: float, dtype: str) -> None:
    """Floats are rounded to the type; NaN and infinity are floats."""
    packed = padding.pad([np.ones(2, dtype), np.ones(1, dtype)], fill=fill)
    assert packed.array.dtype == dtype
    assert np.array_equal(packed.array[1, 1], np.asarray(fill).astype(dtype), equal_nan=True)


@pytest.mark.parametrize(
    "items",
    [[], [np.zeros(2), np.zeros(2, "int64")], [np.zeros(())], [np.zeros((1, 2, 3))]],
    ids=["none", "types", "scalar", "axes"],
)
def test_items_that_cannot_share_are_refused(items: list[padding.Array]) -> None:
    """Nothing, mixed types and strange shapes are mistakes, not guesses."""
    with pytest.raises(errors.InvalidRequest):
        padding.pad(items, fill=0)


@pytest.mark.parametrize("items", [[], [np.zeros((1, 2)), np.zeros((1, 3))], [np.zeros(())]])
def test_unequal_arrays_are_not_concatenated(items: list[padding.Array]) -> None:
    """Items must be equal but for their rows."""
    with pytest.raises(errors.InvalidRequest):
        padding.concat(items)


@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (), (3,), (3, 2)])
def test_an_output_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Too few rows, too many, or other positions: nobody gets somebody else's values."""
    packed = padding.pad([sequence(3), sequence(1), sequence(2)], fill=0)
    with pytest.raises(errors.InvalidRequest):
        packed.unpad(np.zeros(shape))


def test_what_was_not_padded_cannot_be_unpadded() -> None:
    """`concat` adds no positions that could be cut off."""
    with pytest.raises(errors.InvalidRequest, match="split"):
        padding.concat([np.zeros((1, 2))]).unpad(np.zeros((1, 2)))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 4)), min_size=1, max_size=8)
)
@settings(max_examples=200, deadline=None)
def test_padding_and_back_is_the_identity(shapes: list[tuple[int, int | None]]) -> None:
    """Whatever the lengths and rows, unpadding what was padded gives the items (D7)."""
    items = [sequence(length, rows=rows) for length, rows in shapes]
    packed = padding.pad(items, fill=-1)
    for item, output in zip(items, packed.unpad(packed.array), strict=True):
        assert output.shape == item.shape
        assert (output == item).all()
