"""Rows are shared out evenly, and threads go where rows cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd import errors
from bertd.batching import policy, sharing

LEAST = sharing.LEAST_SHARE_TOKENS


LIMITS = policy.Limits(max_tokens=100_000, max_rows=1000)


def share(
    *lengths: int, lanes: int = 2, spare: int | None = None, limits: policy.Limits = LIMITS
) -> sharing.Share:
    """What the next batch of rows of these lengths may take; all idle lanes are spare."""
    return sharing.share(
        rows=len(lengths),
        tokens=sum(lengths),
        longest=max(lengths),
        limits=limits,
        lanes=lanes,
        spare=lanes if spare is None else spare,
    )


def test_a_lone_row_takes_the_idle_lanes() -> None:
    """One row cannot be split by rows, however long it is: its batch gets the spare threads."""
    assert share(16) == sharing.Share(tokens=16, threads=2)
    assert share(512, lanes=4) == sharing.Share(tokens=512, threads=4)


def test_few_tokens_stay_together() -> None:
    """Below the threshold parts would each read all weights for little: one wide batch."""
    half = LEAST // 2
    assert share(half, half - 1) == sharing.Share(tokens=LEAST - 1, threads=2)
    assert share(*[half] * 3).threads == 2


def test_many_tokens_are_split_evenly() -> None:
    """From two parts of the threshold on, every lane gets its share on one thread."""
    assert share(*[LEAST] * 2) == sharing.Share(tokens=LEAST, threads=1)
    assert share(*[10] * 200, lanes=4) == sharing.Share(tokens=500, threads=1)


def test_no_part_is_below_the_threshold() -> None:
    """Many lanes and little work make fewer parts, not smaller ones."""
    assert share(*[LEAST] * 3, lanes=8) == sharing.Share(tokens=LEAST, threads=2)
    assert share(*[LEAST // 2] * 5, lanes=8).tokens >= LEAST


def test_a_row_that_outlasts_all_others_is_not_left_to_one_lane() -> None:
    """A long row with short mates would run alone on one lane while the other idles."""
    assert share(500, 10) == sharing.Share(tokens=510, threads=2)
    assert share(500, *[100] * 5).threads == 1


@pytest.mark.parametrize("lengths", [(16,), (500, 10), (8, 8, 8)])
def test_threads_are_never_taken_from_others(lengths: tuple[int, ...]) -> None:
    """Where nobody may run wide or others wait, each batch has its one thread."""
    assert share(*lengths, spare=1).threads == 1
    assert share(*lengths, spare=0).threads == 1


def test_threads_are_bounded() -> None:
    """A short row does not occupy a whole large machine."""
    assert share(16, lanes=64).threads == sharing.MAX_WIDE_THREADS


def test_nothing_cannot_be_shared() -> None:
    """No rows or no lane is a bug of the caller."""
    for rows, lanes in ((0, 1), (1, 0)):
        with pytest.raises(errors.Bug):
            sharing.share(
                rows=rows, tokens=rows, longest=rows, limits=LIMITS, lanes=lanes, spare=lanes
            )


def test_limits_of_a_batch_make_parts() -> None:
    """Rows that one batch may not hold leave room for the next batch, whatever they cost."""
    two = policy.Limits(max_tokens=100_000, max_rows=2)
    assert share(1, 1, 1, lanes=4, limits=two) == sharing.Share(tokens=2, threads=2)
    assert share(*[1] * 9, lanes=4, limits=two).threads == 1
    small = policy.Limits(max_tokens=50, max_rows=1000)
    assert share(*[10] * 20, lanes=2, limits=small) == sharing.Share(tokens=50, threads=1)


def test_two_long_rows_share_four_lanes() -> None:
    """Fewer rows than lanes: each part gets its share of the threads."""
    assert share(512, 512, lanes=4) == sharing.Share(tokens=512, threads=2)
    assert share(512, 512, 512, lanes=4) == sharing.Share(tokens=512, threads=1)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=60), st.integers(1, 16))
def test_sharing_ends_with_every_row_in_a_part(lengths: list[int], lanes: int) -> None:
    """Share after share empties any queue, in at most as many batches as there are lanes or rows.

    No batch holds more threads than there are lanes, and no part is more than an equal share and
    one row away from another.
    """
    rows = [
        policy.Row(tokens=n, deadline_s=9.0, arrival_s=0.0, sequence=i)
        for i, n in enumerate(lengths)
    ]
    free, parts = lanes, 0
    while rows and free:
        found = share(*(row.tokens for row in rows), lanes=free)
        assert 1 <= found.threads <= free
        limits = policy.Limits(max_tokens=found.tokens, max_rows=1000)
        batch = policy.take({"": rows}, {}, limits, now_s=0.0).batch
        assert batch
        assert sum(row.tokens for row in batch) <= max(found.tokens, batch[0].tokens)
        rows = [row for row in rows if row not in batch]
        free, parts = free - found.threads, parts + 1
    assert not rows
    assert parts <= lanes
