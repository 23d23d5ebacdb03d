"""Predictions add up, and who is let in is answered in time."""

import math
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bertd.batching import admission, cost, policy, queue, sharing
from tests.batching.lane import Lane
from tests.batching.rows import NOW, limits, prices, row

PRICE = cost.Price(fixed_s=0.01, token_s=0.001)
# Long histories: explaining a failure line by line takes minutes.
long = settings(max_examples=40, deadline=None, phases=set(Phase) - {Phase.explain})


def poured(busy_s: list[float], work_s: float) -> float:
    """The water level by bisection: where the lanes below it hold just so much."""
    low, high = min(busy_s), max(busy_s) + work_s + 1
    for _ in range(200):
        level = (low + high) / 2
        if sum(max(0.0, level - each) for each in busy_s) < work_s:
            low = level
        else:
            high = level
    return low


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10), st.floats(0, 1000))
def test_work_is_poured_over_lanes(busy_s, work_s):
    """Lanes that are free earlier take more, so that all end together."""
    assert admission.level_s(busy_s, work_s) == pytest.approx(poured(busy_s, work_s), abs=1e-6)


@pytest.mark.parametrize(
    ("expected_s", "elapsed_s", "left_s"), [(1, 0, 1), (1, 0.75, 0.25), (1, 1, 0), (1, 3, 2)]
)
def test_a_batch_that_is_late_needs_as_long_again(expected_s, elapsed_s, left_s):
    """What has run longer than expected is held to run as much longer once more, not to end."""
    assert admission.residual_s(expected_s, elapsed_s) == left_s


def predict(before: list[int], own: list[int], **given_) -> admission.Forecast:
    """The forecast of rows of these lengths behind others."""
    given_ = {"price": PRICE, "limits": limits(100, 100), "busy_s": [0.0]} | given_

    def work(lengths):
        return admission.Work.of([row(n) for n in lengths])

    ahead = admission.Ahead(before=work(before), own=work(own), longest=max(own))
    return admission.forecast(ahead, **given_)


def test_a_row_with_nothing_ahead_starts_at_once() -> None:
    """An idle lane and an empty queue: the answer takes what the row costs."""
    found = predict([], [10])
    assert (found.wait_s, found.start_s) == (0, 0)
    assert found.finish_s == pytest.approx(0.02)
    assert found.joined_s == pytest.approx(0.11)


def test_what_runs_and_what_waits_is_waited_for() -> None:
    """Three full batches, of which the row is in the last, behind one that runs for a while."""
    found = predict([50] * 5, [50], busy_s=[0.2])
    assert found.start_s == pytest.approx(0.2 + 2 * 0.11)
    assert found.finish_s == pytest.approx(0.2 + 3 * 0.11)


def test_others_of_the_device_are_waited_for() -> None:
    """Lane seconds that other models are due come on top."""
    assert predict([], [10], others_s=0.5).start_s == pytest.approx(0.5)
    assert predict([], [10], others_s=0.5, busy_s=[0, 0]).start_s == pytest.approx(0.25)


def test_the_pace_of_a_flow_counts_if_it_is_slower() -> None:
    """A flow that was served slowly waits longer than its work says: others overtake it."""
    ahead = admission.Ahead(before=admission.Work(1, 10, 100), own=admission.Work(1, 10, 100),
                            longest=10, pace_s=3.0)  # fmt: skip
    found = admission.forecast(ahead, price=PRICE, limits=limits(100, 100), busy_s=[0.0])
    assert found.start_s == found.wait_s == 3.0


@given(
    st.lists(st.integers(1, 500), max_size=20),
    st.lists(st.integers(1, 500), min_size=1, max_size=5),
    st.integers(1, 500),
    prices,
    st.lists(st.floats(0, 10), min_size=1, max_size=4),
)
def test_more_work_is_never_waited_for_less(before, own, more, price, busy_s):
    """One more row ahead makes no predicted wait shorter; all times are in order."""
    given_ = {"price": price, "busy_s": busy_s}
    found, later = predict(before, own, **given_), predict([*before, more], own, **given_)
    assert later.wait_s >= found.wait_s * (1 - 1e-9) - 1e-9
    assert 0 <= found.start_s <= found.finish_s < math.inf
    assert found.wait_s >= min(busy_s)


def admit(waiting: queue.Queue, rows: list[policy.Row], **given_) -> admission.Refusal | None:
    """Whether these rows may come in, on one idle lane."""
    price = given_.pop("price", PRICE)
    return admission.refusal(
        waiting,
        rows,
        now_s=NOW,
        max_queue_delay_s=given_.pop("max_queue_delay_s", math.inf),
        predict=lambda ahead: admission.forecast(
            ahead, price=price, limits=limits(100, 100), busy_s=[given_.get("busy_s", 0.0)]
        ),
    )


def test_a_wait_above_the_limit_is_refused_until_then() -> None:
    """`QueueDelay` comes with the predicted wait, whatever the deadline (checklist 67)."""
    refusal = admit(queue.Queue(), [row(deadline_s=NOW + 3e7)], busy_s=0.6, max_queue_delay_s=0.5)
    assert refusal is not None
    assert refusal.reason == "QueueDelay"
    assert refusal.retry_after_s == pytest.approx(0.6)


def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    """A row that would be late is not let in to find that out."""
    assert admit(queue.Queue(), [row(deadline_s=NOW + 0.05)]) is None
    refusal = admit(queue.Queue(), [row(deadline_s=NOW + 0.05)], busy_s=0.04)
    assert refusal is not None
    assert refusal.reason == "Deadline"
    assert "too late" in refusal.text


def test_who_would_make_an_admitted_row_late_is_refused() -> None:
    """An urgent row may overtake others only while they stay in time without their slack."""
    waiting = queue.Queue()
    waiting.put([row(100, NOW + 0.14, sequence=0)])
    refusal = admit(waiting, [row(50, NOW + 0.135, sequence=1)])
    assert refusal is not None
    assert "admitted before" in refusal.text
    assert admit(waiting, [row(50, NOW + 1, sequence=1)]) is None


def test_who_is_close_to_the_deadline_is_protected_too() -> None:
    """An admitted row whose slack is used up by waiting is not free to be pushed over the edge."""
    waiting = queue.Queue()
    waiting.put([row(100, NOW + 0.115, sequence=0)])  # in time, if nobody comes before it
    refusal = admit(waiting, [row(50, NOW + 0.11, sequence=1)])
    assert refusal is not None
    assert "admitted before" in refusal.text


def test_who_is_lost_anyway_keeps_nobody_out() -> None:
    """A row that cannot be in time any more protects its place against nobody."""
    waiting = queue.Queue()
    waiting.put([row(100, NOW + 0.1, sequence=0)])
    assert admit(waiting, [row(50, NOW + 0.09, sequence=1)]) is None


def test_a_far_deadline_hides_no_near_one_behind_it() -> None:
    """Rows behind one that has a year are looked at too: it stands there for its patience alone."""
    waiting = queue.Queue()
    slow = cost.Price(token_s=0.09)
    waiting.put([row(10, NOW + 3e7, arrival_s=NOW - 9.9, sequence=0)])  # in the order as NOW + 0.1
    waiting.put([row(10, NOW + 2.1, sequence=1)])
    urgent = row(8, NOW + 3e7, arrival_s=NOW - 9.95, sequence=2)
    refusal = admit(waiting, [urgent], price=slow)
    assert refusal is not None
    assert "admitted before" in refusal.text


calls = st.lists(
    st.tuples(
        st.floats(0, 0.06),  # since the call before
        st.lists(st.just(20), min_size=1, max_size=3),
        st.sampled_from([0.08, 0.15, 0.3, 1.0, 3e7]),  # time for the call itself
    ),
    min_size=10,
    max_size=80,
)


def played(trace, price: cost.Price) -> Lane:
    """What became of these calls."""
    lane = Lane(limits(100, 100), price)
    for gap_s, lengths, within_s in trace:
        lane.until(lane.now_s + gap_s)
        lane.call(lengths, within_s)
    lane.until(math.inf)
    return lane


@long
@given(calls)
def test_with_exact_costs_nobody_who_is_admitted_is_late(trace):
    """One lane, one flow, rows of one length: whatever arrives, each admitted row is in time.

    (A call that comes when nothing waits or runs is let in unasked: these could be in time.)
    """
    lane = played(trace, cost.Price(token_s=0.001))
    assert lane.expired == []
    assert len(lane.answered) == lane.admitted
    assert all(at_s <= each.deadline_s for each, at_s in lane.answered.items())


mixed = st.lists(
    st.tuples(
        st.floats(0, 0.06),
        st.lists(st.sampled_from([5, 20, 60, 90]), min_size=1, max_size=3),
        st.sampled_from([0.03, 0.08, 0.15, 0.3, 1.0]),
    ),
    min_size=10,
    max_size=80,
)


@long
@given(mixed, st.sampled_from([0.0, 0.01, 0.04]))
def test_each_row_that_came_in_has_one_end(trace, fixed_s):
    """Answered, or expired; nothing waits for ever, and nothing that expired was answered."""
    lane = played(trace, cost.Price(fixed_s=fixed_s, token_s=0.001))
    assert len(lane.answered) + len(lane.expired) == lane.admitted
    assert not lane.answered.keys() & set(lane.expired)
    assert len(lane.waiting) == 0


@pytest.mark.parametrize(
    ("lengths", "fixed_s", "late_share"),
    [([20], 0.0, 0.0), ([20], 0.01, 0.01), ([5, 20, 60, 90], 0.0, 0.04),
     ([5, 20, 60, 90], 0.01, 0.05)],
)  # fmt: skip
def test_at_twice_the_load_few_are_late(lengths, fixed_s, late_share):
    """At 2x the load nearly all who were admitted are in time.

    With rows of one length that fill batches evenly it is all of them.
    """
    draw = random.Random(7)
    work_s = sum(lengths) / len(lengths) * 0.001
    trace = [
        (draw.expovariate(2 / work_s), [draw.choice(lengths)], draw.choice([0.15, 0.3, 1.0]))
        for _ in range(2000)
    ]
    lane = played(trace, cost.Price(fixed_s=fixed_s, token_s=0.001))
    late = len(lane.expired) + sum(at > each.deadline_s for each, at in lane.answered.items())
    assert lane.refused
    assert late <= late_share * lane.admitted


def test_nobody_waits_longer_than_patience_under_a_load_that_fits() -> None:
    """A row with a year runs within `PATIENCE_S` and a batch, though urgent ones never cease."""
    lane = Lane(limits(40, 2), cost.Price(token_s=0.001))
    lane.call([20], 0.5)
    patient = lane.call([20], 3e7)[0]
    while patient not in lane.answered:
        lane.until(lane.now_s + 0.0202)
        lane.call([20], 0.5)
        assert lane.now_s - NOW < policy.PATIENCE_S + 1
    assert lane.answered[patient] - NOW <= policy.PATIENCE_S + 0.1


@given(prices, st.integers(1, 100_000), st.booleans())
def test_enough_is_what_makes_a_batch_efficient(price, max_tokens, is_contended):
    """Never more than the limit, never nothing; what is unknown is not bounded.

    Else a batch lasts as long as its fixed cost wants, between a least and a most.
    """
    found = sharing.enough(limits(max_tokens, 7), price, is_contended=is_contended)
    assert 1 <= found.max_tokens <= max_tokens
    assert (found.max_rows, found.max_delay_s) == (7, 0)
    if price.token_s == 0:
        assert found.max_tokens == max_tokens
    elif found.max_tokens < max_tokens:
        lasts_s = found.max_tokens * price.token_s
        assert lasts_s >= sharing.ENOUGH_S * (1 - 1e-9)
        assert lasts_s <= sharing.ENOUGH_MOST_S + price.token_s + 1e-9
        if lasts_s < sharing.ENOUGH_MOST_S * (1 - 1e-9):
            assert price.fixed_s <= sharing.ENOUGH_FIXED_SHARE_CONTENDED * lasts_s * (1 + 1e-9)


def test_where_flows_contend_batches_are_no_longer() -> None:
    """Where several flows wait for each other, waiting counts for more than efficiency."""
    price = cost.Price(fixed_s=0.003, token_s=0.0001)
    alone, among = (
        sharing.enough(limits(10_000, 100), price, is_contended=each).max_tokens
        for each in (False, True)
    )
    assert among < alone
