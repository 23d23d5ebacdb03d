"""The measured cost of a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.batching import cost


def test_a_line_is_found() -> None:
    """Batches of known fixed and per-token cost give both back."""
    measured = cost.Cost()
    for tokens in (10, 500, 90, 2000, 30, 1000):
        measured.learn(tokens, 0.002 + 0.0001 * tokens)
    assert measured.seconds(0) == pytest.approx(0.002)
    assert measured.seconds(3000, batches=2) == pytest.approx(0.304)


def test_one_short_batch_does_not_condemn_a_backlog() -> None:
    """After one slow short batch, a burst is not taken for hundreds of such batches."""
    measured = cost.Cost()
    measured.learn(5, 0.004)
    assert measured.seconds(2000) == pytest.approx(0.004)


def test_before_the_first_batch_nothing_is_known() -> None:
    """Without a measurement the prediction is zero: everybody is admitted."""
    assert cost.Cost().seconds(10_000, batches=3) == 0


def test_a_changed_machine_is_learned() -> None:
    """When everything becomes ten times slower, the prediction follows within 100 batches."""
    measured = cost.Cost()
    for factor in (1, 10):
        for tokens in (10, 200, 3000, 700) * 25:
            measured.learn(tokens, factor * (0.001 + 0.0001 * tokens))
    assert measured.seconds(1000) == pytest.approx(1.01, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-6, 10)), min_size=1, max_size=50),
    st.integers(0, 100_000),
)
def test_predictions_are_never_negative(batches: list[tuple[int, float]], tokens: int) -> None:
    """Whatever was measured, more work never costs less than nothing."""
    measured = cost.Cost()
    for size, seconds in batches:
        measured.learn(size, seconds)
    assert 0 <= measured.seconds(tokens) < 1e9
