"""Limits that make no sense are refused when they are written."""

import math

import pytest

from bertd import errors
from bertd.batcher.limits import Limits

COUNTS = ("max_rows", "max_tokens", "max_queue_rows", "enough_rows")


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -5, 1.5, True, "8", math.nan])
def test_counts_must_be_positive_integers(name: str, value: object) -> None:
    """0, -5 and whatever is no count are refused, by name (D3)."""
    with pytest.raises(errors.InvalidRequest, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("name", ["max_delay_s", "max_queue_delay_s"])
@pytest.mark.parametrize("value", [-0.001, math.nan, -math.inf, "1", None, True])
def test_delays_must_be_seconds(name: str, value: object) -> None:
    """Negative times and whatever is no time are refused, by name (D3)."""
    with pytest.raises(errors.InvalidRequest, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]  # what is tested


def test_company_cannot_be_waited_for_for_ever() -> None:
    """An endless wait for company would never end; an endless queue delay is no limit."""
    with pytest.raises(errors.InvalidRequest, match="max_delay_s"):
        Limits(max_delay_s=math.inf)
    assert Limits(max_queue_delay_s=math.inf) == Limits()


def test_enough_company_is_at_most_a_full_batch() -> None:
    """`enough_rows` above `max_rows` is clipped, as the predecessor's `wait_n` was."""
    assert Limits(max_rows=8, enough_rows=16).company.max_rows == 8
    assert Limits(max_rows=8, enough_rows=2).company.max_rows == 2
    assert Limits(max_rows=8, enough_rows=2).batch.max_rows == 8
