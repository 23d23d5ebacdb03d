"""What runs next: earliest deadline first, inside the limits, and nobody is lost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd import errors
from bertd.batching import batch

NOW = 100.0


def row(tokens: int = 10, deadline_s: float = NOW + 10, **fields) -> batch.Row:
    """A waiting row; deadlines are far away unless given."""
    fields.setdefault("sequence", 0)
    fields.setdefault("arrival_s", NOW)
    return batch.Row(tokens=tokens, deadline_s=deadline_s, **fields)


def limits(max_tokens: int = 100, max_rows: int = 10, max_delay_s: float = 0.0) -> batch.Limits:
    """Limits of a batch."""
    return batch.Limits(max_tokens=max_tokens, max_rows=max_rows, max_delay_s=max_delay_s)


@st.composite
def queues(draw) -> list[batch.Row]:
    """Sorted queues of up to 40 rows, some expired, suspect or cancelled."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.integers(1, 120),
                st.integers(-3, 20),
                st.integers(0, 5),
                st.sampled_from([False, False, False, True]),
                st.sampled_from([False, False, False, True]),
            ),
            max_size=40,
        )
    )
    rows = [
        row(tokens, NOW + ahead, arrival_s=NOW - age, sequence=i, isolate=alone, cancelled=gone)
        for i, (tokens, ahead, age, alone, gone) in enumerate(drawn)
    ]
    return sorted(rows, key=batch.order)


bounds = st.builds(limits, st.integers(1, 200), st.integers(1, 12))


@given(queues(), bounds)
def test_every_row_has_exactly_one_fate(rows, bound):
    """Each live row runs, expires or waits, exactly once; cancelled rows are in none of these."""
    taken = batch.take(rows, bound, NOW)
    fates = [id(r) for r in (*taken.batch, *taken.expired, *taken.rest)]
    assert sorted(fates) == sorted(id(r) for r in rows if not r.cancelled)


@given(queues(), bounds)
def test_no_limit_is_exceeded(rows, bound):
    """A batch keeps both limits, except that a row longer than the budget runs alone (D2, D9)."""
    taken = batch.take(rows, bound, NOW)
    assert len(taken.batch) <= bound.max_rows
    if len(taken.batch) > 1:
        assert sum(r.tokens for r in taken.batch) <= bound.max_tokens


@given(queues(), bounds)
def test_what_expired_is_never_run(rows, bound):
    """A deadline at or before now means expired, and nothing else does (D5, checklist 56)."""
    taken = batch.take(rows, bound, NOW)
    assert all(r.deadline_s <= NOW for r in taken.expired)
    assert all(r.deadline_s > NOW for r in (*taken.batch, *taken.rest))


@given(queues(), bounds)
def test_the_earliest_deadline_always_runs(rows, bound):
    """The live row with the earliest deadline is the first of the batch: no length starves."""
    taken = batch.take(rows, bound, NOW)
    live = [r for r in rows if not r.cancelled and r.deadline_s > NOW]
    assert taken.batch[:1] == live[:1]


@given(queues(), bounds)
def test_only_a_row_that_does_not_fit_is_passed_over(rows, bound):
    """Every waiting row ahead of a running one must run alone or did not fit any more."""
    taken = batch.take(rows, bound, NOW)
    if not taken.batch:
        return
    for waiting in taken.rest:
        ahead = [r for r in taken.batch if batch.order(r) < batch.order(waiting)]
        if len(ahead) < len(taken.batch):
            used = sum(r.tokens for r in ahead)
            assert waiting.isolate or used + waiting.tokens > bound.max_tokens


@given(queues(), bounds)
def test_order_is_kept(rows, bound):
    """Batch, expired and rest are each in queue order, so equal deadlines are FIFO (D2)."""
    taken = batch.take(rows, bound, NOW)
    for part in (taken.batch, taken.expired, taken.rest):
        assert [batch.order(r) for r in part] == sorted(batch.order(r) for r in part)


@given(queues(), bounds)
def test_a_suspect_runs_alone(rows, bound):
    """A row that may have killed a worker has no batch mates (D6)."""
    taken = batch.take(rows, bound, NOW)
    if any(r.isolate for r in taken.batch):
        assert len(taken.batch) == 1


@given(queues(), bounds)
def test_taking_ends(rows, bound):
    """Taking again and again without arrivals runs every live row, one batch at least per turn."""
    waiting, turns, ran = rows, 0, 0
    while True:
        taken = batch.take(waiting, bound, NOW)
        if not taken.batch:
            break
        waiting, turns, ran = taken.rest, turns + 1, ran + len(taken.batch)
    assert taken.rest == []
    assert ran == sum(not r.cancelled and r.deadline_s > NOW for r in rows)
    assert turns <= ran


def test_a_short_row_fills_a_gap():
    """Where the next row does not fit, a later one that does may run with the batch."""
    rows = [row(60, sequence=0), row(60, sequence=1), row(40, sequence=2)]
    taken = batch.take(rows, limits(max_tokens=100), NOW)
    assert [r.sequence for r in taken.batch] == [0, 2]
    assert [r.sequence for r in taken.rest] == [1]


def test_the_search_for_fillers_is_bounded():
    """A long queue of rows that do not fit is not walked to its end."""
    rows = [row(60, sequence=i) for i in range(1000)] + [row(40, sequence=1000)]
    taken = batch.take(rows, limits(max_tokens=100), NOW)
    assert len(taken.batch) == 1
    assert len(taken.rest) == 1000


def test_no_rows_no_batch():
    """An empty queue gives nothing, and no lane may start."""
    assert batch.take([], limits(), NOW) == batch.Taken(batch=[], expired=[], rest=[])
    assert batch.ready_at([], limits()) == math.inf


def test_without_delay_one_row_starts_at_once():
    """An idle lane waits for nobody unless told to (D1, D4)."""
    assert batch.ready_at([row()], limits(max_delay_s=0)) <= NOW


def test_a_window_gathers_arrivals():
    """Eight arrivals 1 ms apart inside a window of 20 ms are one batch (D4)."""
    rows = [row(arrival_s=NOW + i / 1000, sequence=i) for i in range(8)]
    window = limits(max_tokens=1000, max_delay_s=0.020)
    start_s = batch.ready_at(rows, window)
    assert start_s == pytest.approx(NOW + 0.020)
    assert len(batch.take(rows, window, start_s).batch) == 8


@pytest.mark.parametrize(
    "bound",
    [limits(max_rows=3, max_delay_s=1), limits(max_tokens=30, max_delay_s=1)],
    ids=["rows", "tokens"],
)
def test_a_full_batch_does_not_wait(bound):
    """A window ends when a limit is reached."""
    rows = [row(sequence=i) for i in range(3)]
    assert batch.ready_at(rows[:2], bound) > NOW
    assert batch.ready_at(rows, bound) <= NOW


def test_a_suspect_does_not_wait_for_company():
    """A row that must run alone starts at once."""
    assert batch.ready_at([row(isolate=True)], limits(max_delay_s=1)) <= NOW


def test_no_row_waits_itself_to_death():
    """A window longer than a row's time is cut to half of that time."""
    assert batch.ready_at([row(deadline_s=NOW + 0.010)], limits(max_delay_s=1)) == NOW + 0.005


@pytest.mark.parametrize(
    "bad",
    [{"max_tokens": 0}, {"max_tokens": -5}, {"max_rows": 0}, {"max_rows": -5},
     {"max_delay_s": -0.1}, {"max_delay_s": math.inf}, {"max_delay_s": math.nan}],
)  # fmt: skip
def test_limits_are_positive(bad):
    """Limits of 0 or less cannot even be made (D3)."""
    with pytest.raises(errors.Bug):
        limits(**bad)
