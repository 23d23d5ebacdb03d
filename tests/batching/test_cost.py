"""The measured cost of a batch."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.batching import cost

TRUE = cost.Price(fixed_s=0.002, token_s=0.0001, square_s=1e-7)
RATIO = TRUE.square_s / TRUE.token_s
BATCHES = ([10], [128] * 4, [90], [512] * 4, [30, 2], [16] * 60)


def learned(
    batches, true: cost.Price = TRUE, ratio: float = RATIO, times: int = 30, trials=()
) -> cost.Cost:
    """What is known after batches that took exactly what they cost."""
    measured = cost.Cost(ratio, trials)
    for _ in range(times):
        for lengths in batches:
            measured.learn(lengths, true.batch_s(lengths))
    return measured


def test_a_line_is_found() -> None:
    """Batches of many sizes give back the fixed cost, that of tokens and that of attention."""
    found = learned(BATCHES).price
    assert found.fixed_s == pytest.approx(TRUE.fixed_s, rel=0.05)
    assert found.token_s == pytest.approx(TRUE.token_s, rel=0.02)
    assert found.square_s == pytest.approx(TRUE.square_s, rel=0.02)


def test_long_rows_cost_more_than_their_tokens() -> None:
    """Attention grows with the square of a row: one long row is dearer than many short ones."""
    found = learned(BATCHES).price
    assert found.batch_s([512]) > found.batch_s([32] * 16)
    assert found.batch_s([512]) == pytest.approx(TRUE.batch_s([512]), rel=0.02)


def test_one_short_batch_does_not_condemn_a_backlog() -> None:
    """After one slow short batch, a burst is not taken for hundreds of such batches."""
    measured = cost.Cost()
    measured.learn([5], 0.004)
    assert measured.price.alone_s(5) == pytest.approx(0.004)
    assert measured.price.batch_s([5] * 400) <= 0.004 * (1 + 400 * (1 - cost.FIXED_PRIOR))


def test_trials_tell_what_batches_of_one_size_cannot() -> None:
    """With a trial of two sizes, a load of one size alone does not blur the fixed cost."""
    trials = [([8], TRUE.batch_s([8])), ([64] * 8, TRUE.batch_s([64] * 8))]
    found = learned(([32] * 16,), trials=trials, times=2000).price
    assert found.fixed_s == pytest.approx(TRUE.fixed_s, rel=0.2)
    assert found.batch_s([32] * 16) == pytest.approx(TRUE.batch_s([32] * 16), rel=0.02)


def test_one_size_alone_is_predicted_right() -> None:
    """Whatever share is held to be fixed, more batches of the size that was seen are right."""
    found = learned(([32] * 16,), times=2000).price
    assert found.batch_s([32] * 16) == pytest.approx(TRUE.batch_s([32] * 16), rel=0.02)


def test_before_the_first_batch_nothing_is_known() -> None:
    """Without a measurement the prediction is zero: everybody is admitted."""
    assert cost.Cost().price == cost.FREE
    assert cost.FREE.batch_s([512] * 100) == 0


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_changed_machine_is_learned(factor: float) -> None:
    """When everything becomes ten times slower or faster, 100 batches later it is known."""
    measured = learned(BATCHES)
    for lengths in BATCHES * 17:
        measured.learn(lengths, factor * TRUE.batch_s(lengths))
    for lengths in BATCHES:
        expected_s = factor * TRUE.batch_s(lengths)
        assert measured.price.batch_s(lengths) == pytest.approx(expected_s, rel=0.15)


def test_a_stall_does_not_condemn_for_ever() -> None:
    """One batch during which all stood still for a minute changes little, and soon nothing."""
    measured = learned(BATCHES)
    measured.learn([90], 60.0)
    assert measured.price.batch_s([90]) <= 2 * TRUE.batch_s([90])
    for lengths in BATCHES * 10:
        measured.learn(lengths, TRUE.batch_s(lengths))
    assert measured.price.batch_s([90]) == pytest.approx(TRUE.batch_s([90]), rel=0.1)


def test_a_first_batch_that_stalled_is_forgotten() -> None:
    """Even if all that was ever measured is a minute's stall, a thousand batches put it right."""
    measured = cost.Cost(RATIO)
    measured.learn([90], 60.0)
    for lengths in BATCHES * 170:
        measured.learn(lengths, TRUE.batch_s(lengths))
    assert measured.price.batch_s([90]) == pytest.approx(TRUE.batch_s([90]), rel=0.5)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, math.inf, math.nan])
def test_no_sense_is_not_learned(seconds: float) -> None:
    """A clock that went back, stood still or broke teaches nothing; nor does an empty batch."""
    measured = learned(BATCHES)
    before = measured.price
    measured.learn([90], seconds)
    measured.learn([], 1.0)
    assert measured.price == before


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 512), min_size=1, max_size=9),
            st.floats(1e-9, 1e6),
        ),
        min_size=1,
        max_size=40,
    ),
    st.floats(0, 0.01),
    st.booleans(),
)
def test_predictions_are_never_negative(batches, ratio, tried) -> None:
    """Whatever was measured, no part of a price is below zero, and all are finite."""
    measured = cost.Cost(ratio, batches[:2] if tried else ())
    for lengths, seconds in batches:
        measured.learn(lengths, seconds)
        price = measured.price
        assert min(price.fixed_s, price.token_s, price.square_s) >= -1e-9
        assert math.isfinite(price.batch_s([512] * 100))


@pytest.mark.parametrize(
    ("facts", "ratio"),
    [
        ({}, 0.0),
        ({"operationsPerToken": 10, "operationsPerTokenSquared": "x"}, 0.0),
        ({"operationsPerToken": 0, "operationsPerTokenSquared": 5}, 0.0),
        ({"operationsPerToken": 10, "operationsPerTokenSquared": -5}, 0.0),
        ({"operationsPerToken": 10, "operationsPerTokenSquared": 1},
         cost.ATTENTION_SLOWNESS * 0.1),
    ],
)  # fmt: skip
def test_the_share_of_attention_follows_from_the_shape(facts, ratio) -> None:
    """What a worker tells of its encoder says how much a squared token costs; or nothing does."""
    assert cost.square_per_token(facts) == pytest.approx(ratio)
