"""Each caller has a bucket of its own, and there are never more buckets than told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.runtime import rates

RATE = rates.Rate(per_s=10.0, burst=3.0, callers_max=4)


def test_a_burst_is_free_and_then_one_waits_for_a_token() -> None:
    """After the burst the wait is named; whoever waits so long gets the token."""
    table = rates.Rates(RATE)
    assert [table.take("a", 5.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.1])
    assert table.take("a", 5.05) == pytest.approx(0.05)
    assert table.take("a", 5.1001) == 0
    assert table.take("a", 5.1001) > 0


def test_callers_do_not_share_their_tokens() -> None:
    """One caller's greed costs another nothing."""
    table = rates.Rates(RATE)
    for _ in range(50):
        table.take("greedy", 0.0)
    assert table.take("modest", 0.0) == 0


def test_a_bucket_never_holds_more_than_the_burst() -> None:
    """A year of silence saves up one burst."""
    table = rates.Rates(RATE)
    table.take("a", 0.0)
    taken = [table.take("a", 3e7) for _ in range(5)]
    assert [wait_s == 0 for wait_s in taken] == [True, True, True, False, False]


def test_the_caller_that_was_seen_longest_ago_is_forgotten() -> None:
    """However many callers come, the table has its size; who is forgotten starts anew."""
    table = rates.Rates(RATE)
    for _ in range(3):
        table.take("first", 0.0)
    for name in "bcd":
        table.take(name, 0.0)
    assert table.take("first", 0.0) > 0  # four callers fit
    for number in range(100):
        table.take(f"caller {number}", 0.0)
    assert table.take("first", 0.0) == 0


@given(st.lists(st.floats(0, 0.5), max_size=60))
def test_no_timing_gets_more_than_burst_and_rate(pauses_s: list[float]) -> None:
    """However a caller spaces its calls, it gets the burst plus the rate times the time."""
    table, now_s, taken = rates.Rates(RATE), 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        taken += table.take("a", now_s) == 0
    assert taken <= RATE.burst + now_s * RATE.per_s + 1e-6


def test_a_clock_that_stands_or_steps_back_takes_no_token() -> None:
    """A bucket is never emptied by the clock."""
    table = rates.Rates(RATE)
    assert table.take("a", 10.0) == 0
    assert [table.take("a", 9.0) for _ in range(3)] == pytest.approx([0, 0, 0.1])
