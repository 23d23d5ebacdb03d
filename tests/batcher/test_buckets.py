"""Items by length: groups, their bounds, and the way back."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.batcher import buckets

COUNTS = st.integers(min_value=1, max_value=40)


def test_items_share_a_group_with_their_bucket() -> None:
    """The reference case: four groups, and results in the order of the items (D8)."""
    lengths = [5, 40, 100, 17, 16, 64, 200]
    groups = buckets.group(lengths, [16, 32, 64])
    by_length = [[lengths[i] for i in group] for group in groups]
    assert by_length == [[5, 16], [17], [40, 64], [100, 200]]
    assert buckets.restore(groups, by_length) == lengths


def test_a_group_over_the_token_budget_is_split() -> None:
    """Padded to its longest, no group is over `max_tokens`, the last bucket included (D9)."""
    groups = buckets.group([3, 4, 4, 9, 10], [4], max_tokens=10)
    assert groups == [[0, 1], [2], [3], [4]]


def test_items_of_several_rows_count_all_of_them() -> None:
    """Pre-batched items bring their rows, and are never cut (D9)."""
    assert buckets.group([4, 4, 4], [4], rows=[2, 1, 2], max_tokens=12) == [[0, 1], [2]]
    with pytest.raises(errors.TooLarge, match="item 1 has 4 rows of 4"):
        buckets.group([4, 4], [4], rows=[1, 4], max_tokens=12)


@pytest.mark.parametrize("bounds", [[16, 16], [32, 16], [0, 4], [-1]])
def test_bounds_must_rise(bounds: list[int]) -> None:
    """Buckets that cannot hold anything are a mistake."""
    with pytest.raises(errors.InvalidRequest, match="rise"):
        buckets.group([1], bounds)


def test_rows_must_be_counted_for_every_item() -> None:
    """A count of rows too few or too many is a mistake, not a guess."""
    with pytest.raises(errors.InvalidRequest, match="rows"):
        buckets.group([1, 2], [4], rows=[1])


@pytest.mark.parametrize("parts", [[["a"], []], [["a"]], [["a"], ["b", "c"]]])
def test_results_must_match_their_groups(parts: list[list[str]]) -> None:
    """A group with a result too few or too many gives nobody a wrong answer."""
    with pytest.raises(errors.InvalidRequest, match="one result"):
        buckets.restore([[0], [1]], parts)


def test_nothing_has_no_groups() -> None:
    """No items, no groups, no results."""
    assert buckets.group([], [16]) == []
    assert buckets.restore([], []) == []


@given(
    items=st.lists(st.tuples(COUNTS, COUNTS)),
    bounds=st.lists(COUNTS, unique=True).map(sorted),
    max_tokens=st.integers(min_value=1600, max_value=4000) | st.none(),
)
@settings(max_examples=200, deadline=None)
def test_every_item_is_in_one_group_and_none_is_too_large(
    items: list[tuple[int, int]], bounds: list[int], max_tokens: int | None
) -> None:
    """Whatever the lengths, rows and bounds: each item once, one bucket a group, in budget (D9)."""
    lengths, rows = [length for length, _ in items], [count for _, count in items]
    groups = buckets.group(lengths, bounds, rows=rows, max_tokens=max_tokens)
    assert sorted(itertools.chain(*groups)) == list(range(len(items)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len({sum(bound < lengths[i] for bound in bounds) for i in group}) == 1
        if max_tokens is not None:
            assert longest * sum(rows[i] for i in group) <= max_tokens
    assert buckets.restore(groups, [[items[i] for i in group] for group in groups]) == items
