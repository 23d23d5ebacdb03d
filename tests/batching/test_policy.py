"""What runs next: who is due, inside the limits, in time, and nobody is lost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd import errors
from bertd.batching import cost, policy, shares
from tests.batching.rows import NOW, ROUNDING_S, bounds, flows, limits, prices, row

served = st.fixed_dictionaries({name: st.floats(-200, 2000) for name in "abcd"})
lead = st.fixed_dictionaries({name: st.floats(0, 500) for name in "abcd"})


@st.composite
def taken(draw):
    """Flows, the arguments with which they were taken from, and what was taken."""
    waiting, given_, bound, price = draw(flows()), draw(served), draw(bounds), draw(prices)
    due = {name: given_[name] - ahead for name, ahead in draw(lead).items()}
    found = policy.take(waiting, given_, bound, NOW, price, due)
    return waiting, (given_, due, bound, price), found


def rows_of(waiting):
    """All rows that wait."""
    return [each for rows in waiting.values() for each in rows]


def is_late(each: policy.Row, price: cost.Price) -> bool:
    """Whether it would be late even if it ran now and alone."""
    return NOW + price.alone_s(each.tokens) > each.deadline_s


@given(taken())
def test_every_row_has_exactly_one_fate(case):
    """Each row runs, expires or waits on: none twice, none invented."""
    waiting, _, found = case
    gone = [id(each) for each in (*found.batch, *found.expired)]
    assert len(gone) == len(set(gone))
    assert set(gone) <= {id(each) for each in rows_of(waiting)}


@given(taken())
def test_no_limit_is_exceeded(case):
    """A batch keeps both limits, except that a row longer than the budget runs alone (D2, D9)."""
    _, (*_, bound, _), found = case
    assert len(found.batch) <= bound.max_rows
    if len(found.batch) > 1:
        assert sum(each.tokens for each in found.batch) <= bound.max_tokens


@given(taken())
def test_what_expired_is_never_run(case):
    """A deadline at or before now means expired, and nothing else does (D5, checklist 56)."""
    waiting, _, found = case
    expired = {id(each) for each in rows_of(waiting) if each.deadline_s <= NOW}
    assert {id(each) for each in found.expired} == expired
    assert all(each.deadline_s > NOW for each in found.batch)


@given(taken())
def test_the_first_that_can_be_in_time_always_runs(case):
    """Whatever its length, the first row of the order that can be in time starts the batch."""
    waiting, (given_, due, _, price), found = case

    def place(name, at):
        turn = due[name] if at == 0 else given_[name]
        return shares.round_of(turn), waiting[name][at].order

    able = [
        (place(name, at), each)
        for name, rows in waiting.items()
        for at, each in enumerate(rows)
        if each.deadline_s > NOW and not is_late(each, price)
    ]
    if able:
        assert found.batch[0] is min(able, key=lambda one: one[0])[1]


@given(taken())
def test_late_rows_run_only_if_no_other_can(case):
    """A row that is predicted to be late runs alone, and only where none could be in time."""
    waiting, (*_, price), found = case
    live = [each for each in rows_of(waiting) if each.deadline_s > NOW]
    if any(is_late(each, price) for each in found.batch):
        assert len(found.batch) == 1
        assert all(is_late(each, price) for each in live)
    assert bool(found.batch) == bool(live)


@given(taken())
def test_no_row_joins_a_batch_that_makes_another_late(case):
    """A batch of several rows ends before the nearest deadline in it, as far as costs say."""
    _, (*_, price), found = case
    if len(found.batch) > 1:
        end_s = NOW + price.batch_s(each.tokens for each in found.batch)
        assert end_s <= min(each.deadline_s for each in found.batch) + ROUNDING_S


@given(taken())
def test_only_a_row_that_cannot_join_is_passed_over(case):
    """No row waits on that could have run with this batch: nothing is left empty in vain.

    It could not if it has no place, or if that would make one of the batch late, or one that has
    no place and goes next.
    """
    waiting, (*_, bound, price), found = case
    if not found.batch or is_late(found.batch[0], price) or len(found.batch) == bound.max_rows:
        return
    free = bound.max_tokens - sum(each.tokens for each in found.batch)
    took_s = price.batch_s(each.tokens for each in found.batch)
    left = [
        each
        for each in rows_of(waiting)
        if each not in found.batch and each.deadline_s > NOW and not is_late(each, price)
    ]
    end_s = min(
        *(each.deadline_s for each in found.batch),
        math.inf,
        *(each.deadline_s - price.alone_s(each.tokens) for each in left if each.tokens > free),
    )
    for each in left:
        joined_s = (1 + policy.MARGIN_SHARE) * (took_s + price.row_s(each.tokens))
        late = NOW + joined_s > min(end_s, each.deadline_s) - ROUNDING_S
        assert each.tokens > free or late


@given(taken())
def test_a_flow_is_earliest_deadline_first(case):
    """Rows of one flow are in order of deadline, then of arrival, so equal ones are FIFO (D2)."""
    waiting, _, found = case
    for name in waiting:
        mine = [each.order for each in found.batch if each.flow == name]
        assert mine == sorted(mine)


@given(flows(), bounds)
def test_taking_ends(waiting, bound):
    """Taking again and again without arrivals runs every live row, one a turn at the least."""
    live = [each for each in rows_of(waiting) if each.deadline_s > NOW]
    ran: list[policy.Row] = []
    while found := policy.take(waiting, {}, bound, NOW).batch:
        ran += found
        left = {
            name: [each for each in rows if each not in found] for name, rows in waiting.items()
        }
        waiting = {name: rows for name, rows in left.items() if rows}
    assert sorted(each.sequence for each in ran) == sorted(each.sequence for each in live)


def test_inside_a_round_the_nearest_deadline_is_first():
    """Flows that were given about as much go by deadline; one that was given more comes later."""
    waiting = {
        "a": [row(deadline_s=NOW + 3, sequence=0, flow="a")],
        "b": [row(deadline_s=NOW + 2, sequence=1, flow="b")],
        "c": [row(deadline_s=NOW + 1, sequence=2, flow="c")],
    }
    given_ = {"a": 0.0, "b": shares.QUANTUM - 1, "c": shares.QUANTUM}
    found = policy.take(waiting, given_, limits(), NOW)
    assert [each.flow for each in found.batch] == ["b", "a", "c"]


def test_a_flow_yields_when_a_batch_gave_it_its_quantum():
    """Inside one large batch flows take turns: the nearer deadline does not take all of it."""
    tokens = int(shares.QUANTUM)
    waiting = {
        name: [row(tokens, NOW + 1 + at, sequence=8 * at + i, flow=name) for i in range(8)]
        for at, name in enumerate("ab")
    }
    found = policy.take(waiting, {}, limits(8 * tokens, 8), NOW)
    assert [each.flow for each in found.batch] == list("abababab")


def test_patience_bounds_how_long_rows_are_overtaken():
    """A deadline a year away is ordered as one `PATIENCE_S` after arrival: urgency wears off."""
    patient = row(deadline_s=NOW + 3e7, arrival_s=NOW - policy.PATIENCE_S, sequence=0)
    urgent = row(deadline_s=NOW + 0.001, sequence=1)
    waiting = {"": sorted([urgent, patient], key=policy.order)}
    assert policy.take(waiting, {}, limits(max_rows=1), NOW).batch == [patient]
    patient = row(deadline_s=NOW + 3e7, arrival_s=NOW - policy.PATIENCE_S + 1, sequence=0)
    waiting = {"": sorted([urgent, patient], key=policy.order)}
    assert policy.take(waiting, {}, limits(max_rows=1), NOW).batch == [urgent]


def test_a_short_row_fills_a_gap():
    """Where the next row does not fit, a later one that does may run with the batch."""
    rows = [row(60, sequence=0), row(60, sequence=1), row(40, sequence=2)]
    found = policy.take({"": rows}, {}, limits(max_tokens=100), NOW)
    assert [each.sequence for each in found.batch] == [0, 2]


def test_the_search_for_fillers_is_bounded():
    """A long queue of rows that do not fit is not walked to its end."""
    rows = [row(60, sequence=i) for i in range(1000)] + [row(40, sequence=1000)]
    assert len(policy.take({"": rows}, {}, limits(max_tokens=100), NOW).batch) == 1


def test_no_rows_no_batch():
    """Of nothing, nothing is taken."""
    assert policy.take({}, {}, limits(), NOW) == policy.Taken(batch=[], expired=[])


@pytest.mark.parametrize(
    "bad",
    [{"max_tokens": 0}, {"max_tokens": -5}, {"max_rows": 0}, {"max_rows": -5},
     {"max_delay_s": -0.1}, {"max_delay_s": math.inf}, {"max_delay_s": math.nan}],
)  # fmt: skip
def test_limits_are_positive(bad):
    """Limits of 0 or less cannot even be made (D3)."""
    with pytest.raises(errors.Bug):
        limits(**bad)
