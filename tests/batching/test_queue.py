"""The queue is bounded, forgets cancelled rows at once, counts right, and knows what is ahead."""

import itertools
import math
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bertd import errors
from bertd.batching import admission, policy, queue, shares
from tests.batching.rows import LOW, NOW, limits, prices, row, weights

THREE = 3 * row().size_bytes  # what three rows of ten tokens occupy
FOREVER_S = NOW + 3e7


def test_a_call_is_admitted_whole_or_not_at_all():
    """A call that does not fit leaves nothing behind, and is told when to come again (D10)."""
    waiting = queue.Queue(max_bytes=THREE)
    waiting.put([row(sequence=0), row(sequence=1)])
    with pytest.raises(errors.Overloaded) as caught:
        waiting.put([row(sequence=2), row(sequence=3)], retry_after_s=1.5)
    assert caught.value.retry_after_s == 1.5
    assert (len(waiting), waiting.tokens) == (2, 20)
    waiting.put([row(sequence=4)])
    with pytest.raises(errors.Overloaded):
        waiting.put([row(1, sequence=5)])
    assert (len(waiting), waiting.tokens) == (3, 30)


@pytest.mark.parametrize("call", [[row(10)] * 4, [row(1000)]], ids=["rows", "tokens"])
def test_a_call_that_can_never_fit_is_not_told_to_retry(call):
    """A call over the bounds of the empty queue is too large, not too early."""
    with pytest.raises(errors.TooLarge, match="split") as caught:
        queue.Queue(max_bytes=THREE).put(call)
    assert not isinstance(caught.value, errors.NotReady)


def test_the_memory_of_a_queue_is_a_computed_constant():
    """Rows are admitted up to a bound in bytes, whatever their length (checklist 67)."""
    for tokens in (1, 512):
        waiting = queue.Queue(max_bytes=100_000)
        fits = 100_000 // row(tokens).size_bytes
        waiting.put([row(tokens, sequence=i) for i in range(fits)])
        with pytest.raises(errors.Overloaded):
            waiting.put([row(tokens, sequence=fits)])
        used = len(waiting) * (policy.ROW_BYTES + policy.TOKEN_BYTES * tokens)
        assert 100_000 - row(tokens).size_bytes < used <= 100_000


def test_a_cancelled_row_frees_its_place_at_once():
    """Cancelling one of many equal deadlines removes that row and no other (D5, checklist 56)."""
    waiting = queue.Queue()
    rows = [row(sequence=i) for i in range(5)]
    waiting.put(rows)
    assert waiting.cancel(rows[2])
    assert rows[2].cancelled
    assert not waiting.cancel(rows[2])
    assert (len(waiting), waiting.tokens) == (4, 40)
    assert [each.sequence for each in waiting.take(limits(), NOW).batch] == [0, 1, 3, 4]


def test_cancelling_a_row_that_runs_marks_it():
    """A row already taken is only marked, so that whoever runs it can drop its answer."""
    waiting = queue.Queue()
    one = row()
    waiting.put([one])
    waiting.take(limits(), NOW)
    assert not waiting.cancel(one)
    assert one.cancelled
    assert (len(waiting), waiting.tokens) == (0, 0)


def test_rows_of_a_dead_worker_come_back_first():
    """Rows that were admitted are put back even into a full queue, ahead of later deadlines."""
    waiting = queue.Queue(max_bytes=2 * row().size_bytes)
    waiting.put([row(sequence=0), row(sequence=1)])
    lost = waiting.take(limits(max_rows=1), NOW).batch
    waiting.put([row(sequence=2)])
    waiting.put_back(lost)
    assert len(waiting) == 3
    assert [each.sequence for each in waiting.take(limits(), NOW).batch] == [0, 1, 2]


def test_a_suspect_runs_before_all_others_and_alone():
    """A row that may have killed a worker has no batch mates, and nobody is due before it (D6)."""
    waiting = queue.Queue()
    waiting.put([row(deadline_s=NOW + 1, sequence=i) for i in range(3)])
    waiting.put_back([row(deadline_s=FOREVER_S, sequence=i, isolate=True) for i in (3, 4)])
    assert waiting.next_is_isolated
    assert waiting.next_deadline_s == -math.inf
    taken = [[each.sequence for each in waiting.take(limits(), NOW).batch] for _ in range(3)]
    assert taken == [[3], [4], [0, 1, 2]]


def test_a_suspect_that_expired_never_runs():
    """Not even a suspect runs after its deadline."""
    waiting = queue.Queue()
    waiting.put_back([row(deadline_s=NOW, isolate=True)])
    taken = waiting.take(limits(), NOW)
    assert (taken.batch, len(taken.expired), len(waiting)) == ([], 1, 0)


def test_a_suspect_may_be_cancelled():
    """A suspect whose caller goes away frees its place as any other."""
    waiting = queue.Queue()
    suspects = [row(sequence=i, isolate=True) for i in range(2)]
    waiting.put_back(suspects)
    assert waiting.cancel(suspects[0])
    assert waiting.take(limits(), NOW).batch == [suspects[1]]


def test_expired_rows_leave_with_the_batch():
    """Taking also removes what expired, and the counts follow (checklist 56)."""
    waiting = queue.Queue()
    waiting.put([row(deadline_s=NOW - 1, sequence=0), row(sequence=1)])
    taken = waiting.take(limits(), NOW)
    assert [each.sequence for each in taken.expired] == [0]
    assert [each.sequence for each in taken.batch] == [1]
    assert (len(waiting), waiting.tokens) == (0, 0)


def test_the_next_deadline_is_known():
    """The earliest deadline, or end of patience, tells how urgent a queue is."""
    waiting = queue.Queue()
    assert waiting.next_deadline_s == math.inf
    waiting.put([row(deadline_s=FOREVER_S, sequence=0, flow="a")])
    assert waiting.next_deadline_s == NOW + policy.PATIENCE_S
    waiting.put([row(deadline_s=NOW + 2, sequence=1, flow="b")])
    assert waiting.next_deadline_s == NOW + 2


def test_draining_returns_everything():
    """A queue that closes hands all its rows back, suspects included."""
    waiting = queue.Queue()
    rows = [row(sequence=i, flow=i % 2) for i in range(3)]
    suspect = row(sequence=3, isolate=True)
    waiting.put(rows)
    waiting.put_back([suspect])
    assert set(waiting.drain()) == {*rows, suspect}
    assert (len(waiting), waiting.tokens) == (0, 0)


def test_every_one_of_a_hundred_gets_into_a_batch():
    """100 rows with at most 10 in a batch are 10 full batches in order of arrival (D2)."""
    waiting = queue.Queue()
    waiting.put([row(1, sequence=i) for i in range(100)])
    batches = [waiting.take(limits(), NOW).batch for _ in range(11)]
    assert [len(each) for each in batches] == [10] * 10 + [0]
    assert [each.sequence for batch in batches for each in batch] == list(range(100))


def test_a_clock_that_goes_back_breaks_nothing():
    """Times that jump by hours, in either direction, lose no row and divide by nothing."""
    waiting = queue.Queue()
    for i, now_s in enumerate((NOW, NOW - 3600, NOW + 7200, NOW - 7200, NOW)):
        waiting.put([row(deadline_s=NOW + 1e6, sequence=10 * i + j) for j in range(10)])
        assert len(waiting.take(limits(max_rows=5), now_s).batch) == 5
    ahead = waiting.ahead([row(sequence=99)])
    assert math.isfinite(ahead.pace_s)
    assert ahead.pace_s >= 0


# Waiting for company.

WINDOW = limits(max_tokens=1000, max_rows=8, max_delay_s=0.020)


def test_a_window_gathers_arrivals():
    """Eight arrivals 1 ms apart inside a window of 20 ms are one batch, and wait no longer (D4)."""
    waiting = queue.Queue()
    for i in range(8):
        arrival_s = NOW + i / 1000
        assert waiting.ready_at(WINDOW) > arrival_s
        waiting.put([row(arrival_s=arrival_s, sequence=i)])
    assert waiting.ready_at(WINDOW) <= NOW + 0.007
    assert len(waiting.take(WINDOW, NOW + 0.007).batch) == 8


def test_a_window_ends():
    """Without more arrivals the first row waits for the delay and no longer (D1)."""
    waiting = queue.Queue()
    waiting.put([row(sequence=0)])
    waiting.put([row(arrival_s=NOW + 0.015, sequence=1)])
    assert waiting.ready_at(WINDOW) == pytest.approx(NOW + 0.020)


def test_without_delay_one_row_starts_at_once():
    """An idle lane waits for nobody unless told to; without rows there is nothing to start (D4)."""
    waiting = queue.Queue()
    assert waiting.ready_at(limits()) == math.inf
    waiting.put([row()])
    assert waiting.ready_at(limits()) <= NOW


def test_the_window_is_that_of_the_oldest_that_still_waits():
    """A row that is cancelled takes its window with it."""
    waiting = queue.Queue()
    first = row(sequence=0)
    waiting.put([first, row(arrival_s=NOW + 0.015, sequence=1)])
    waiting.cancel(first)
    assert waiting.ready_at(WINDOW) == pytest.approx(NOW + 0.035)


@pytest.mark.parametrize(
    "bound",
    [limits(max_rows=3, max_delay_s=1), limits(max_tokens=30, max_delay_s=1)],
    ids=["rows", "tokens"],
)
def test_a_full_batch_does_not_wait(bound):
    """A window ends when a limit is reached."""
    waiting = queue.Queue()
    waiting.put([row(sequence=i) for i in range(2)])
    assert waiting.ready_at(bound) > NOW
    waiting.put([row(sequence=2)])
    assert waiting.ready_at(bound) <= NOW


def test_a_suspect_does_not_wait_for_company():
    """A row that must run alone starts at once."""
    waiting = queue.Queue()
    waiting.put_back([row(isolate=True)])
    assert waiting.ready_at(WINDOW) <= NOW


def test_no_row_waits_itself_to_death():
    """A window longer than a row's time is cut to half of that time."""
    waiting = queue.Queue()
    waiting.put([row(deadline_s=NOW + 0.010)])
    assert waiting.ready_at(limits(max_delay_s=1)) == NOW + 0.005


def lone_calls(waiting: queue.Queue, calls: int, mates: int = 0) -> list[bool]:
    """Rows that come one after the other's answer, and with mates: whether each had to wait."""
    waits = []
    for i in range(calls):
        waiting.put([row(sequence=10 * i)])
        waits.append(waiting.ready_at(WINDOW) > NOW)
        if waits[-1]:  # only who waits has company
            waiting.put([row(sequence=10 * i + 1 + j) for j in range(mates)])
        waiting.take(WINDOW, NOW)
    return waits


def test_a_lone_caller_stops_waiting_for_company():
    """Who sends the next row only after the last answer soon waits no more, but for a rare try."""
    waits = lone_calls(queue.Queue(), 1000)
    assert all(waits[:3])
    assert sum(waits[:20]) <= 10
    assert sum(waits[20:]) <= 25


def test_where_company_comes_waiting_goes_on():
    """Windows that gather rows are kept, also after a time without any."""
    waiting = queue.Queue()
    assert all(lone_calls(waiting, 50, mates=2))
    lone_calls(waiting, 200)
    assert sum(lone_calls(waiting, 200, mates=2)) >= 150


# What stands ahead.

FLOWS = st.lists(
    st.tuples(weights, st.lists(st.integers(1, 100), min_size=1, max_size=12)),
    min_size=1,
    max_size=4,
)
ONE = limits(max_tokens=10**6, max_rows=1)


def filled(flows, history: int) -> tuple[queue.Queue, itertools.count]:
    """A queue with a past: each flow's rows came twice, and some batches ran."""
    waiting, sequence = queue.Queue(), itertools.count()
    for _ in range(2):
        for at, (weight, lengths) in enumerate(flows):
            for tokens in lengths:
                waiting.put([row(tokens, FOREVER_S, sequence=next(sequence), flow=at,
                                 weight=weight)])  # fmt: skip
    for _ in range(history):
        waiting.take(ONE, NOW)
    return waiting, sequence


def until(waiting: queue.Queue, last: policy.Row) -> int:
    """Tokens that run until a row has, one row a batch."""
    tokens = 0
    while True:
        [one] = waiting.take(ONE, NOW).batch
        tokens += one.tokens
        if one is last:
            return tokens


@settings(deadline=None)
@given(FLOWS, st.integers(0, 20), st.integers(0, 3), st.lists(st.integers(1, 100), min_size=1,
       max_size=3), st.booleans())  # fmt: skip
def test_what_is_ahead_is_what_runs_before(flows, history, of, lengths, urgent):
    """The tokens ahead of a call are those that run before it, within a round of each other flow.

    That is, by weight, one quantum, inside which deadlines decide, and the call's last row, whose
    end is asked for and not its start; and a row. Its own flow is exact.
    """
    waiting, sequence = filled(flows, history)
    of %= len(flows)
    call = [
        row(tokens, NOW + 1 if urgent else FOREVER_S, sequence=next(sequence), flow=of,
            weight=flows[of][0])
        for tokens in lengths
    ]  # fmt: skip
    found = waiting.ahead(call)
    assert found.own == admission.Work.of(call)
    assert found.longest == max(lengths)
    waiting.put(call)
    actual = until(waiting, max(call, key=policy.order)) - sum(lengths)
    own = max(lengths) / flows[of][0]
    others = [flow for at, flow in enumerate(flows) if at != of]
    slack = sum(weight * (shares.QUANTUM + own) + 2 * max(of_) for weight, of_ in others)
    assert found.before.tokens == pytest.approx(actual, abs=slack + 1e-6)


@given(st.lists(st.integers(1, 100), max_size=20), st.lists(st.integers(1, 100), min_size=1,
       max_size=3), st.integers(0, 20))  # fmt: skip
def test_what_is_behind_is_delayed_by_the_call(lengths, call, overtaken):
    """Exactly the rows with later deadlines are delayed, by exactly the call's work."""
    waiting = queue.Queue()
    rows = [row(tokens, NOW + 1 + i / 10, sequence=i) for i, tokens in enumerate(lengths)]
    waiting.put(rows)
    new = [row(n, NOW + 1.05 + overtaken / 10, sequence=100 + i) for i, n in enumerate(call)]
    found = list(waiting.behind(new))
    assert [each for each, _, _ in found] == rows[overtaken + 1 :]
    for each, without, with_them in found:
        before = sum(lengths[: each.sequence])
        assert without.before.tokens == pytest.approx(before)
        assert with_them.before.tokens == pytest.approx(before + sum(call))
        assert without.own == with_them.own == admission.Work.of([each])


def test_suspects_are_ahead_of_everybody():
    """Rows that run alone first count as standing ahead of every flow."""
    waiting = queue.Queue()
    waiting.put_back([row(300, isolate=True)])
    assert waiting.ahead([row(10, sequence=1)]).before.tokens == 300


def test_another_flow_does_not_count_beyond_its_share():
    """A newcomer is told of one round of a backlog, not of all of it."""
    waiting = queue.Queue()
    waiting.put([row(10, FOREVER_S, sequence=i, flow="greedy") for i in range(5000)])
    for _ in range(20):
        waiting.take(limits(), NOW)
    ahead = waiting.ahead([row(10, NOW + 1, sequence=9999, flow="modest")])
    assert ahead.before.tokens <= 2 * shares.QUANTUM
    two = [row(10, NOW + 1, sequence=9999 + i, flow="low", weight=LOW) for i in range(2)]
    low = waiting.ahead(two)  # the second is due when the first has been charged
    assert ahead.before.tokens < low.before.tokens <= (2 + 10 / LOW / shares.QUANTUM) * 128


class QueueMachine(RuleBasedStateMachine):
    """Any history of puts, takes, cancellations and returns keeps order, bounds and counts."""

    MAX_BYTES = 22_000

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue.Queue(max_bytes=self.MAX_BYTES)
        self.waiting: list[policy.Row] = []
        self.running: list[policy.Row] = []
        self.sequence = 0

    @rule(
        sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
        ahead=st.sampled_from([1, 3, 9, 1e7]),
        flow=st.sampled_from("abc"),
        weight=weights,
    )
    def put(self, sizes, ahead, flow, weight):
        """A call arrives, and is admitted if and only if it fits."""
        rows = [
            row(t, NOW + ahead, sequence=self.sequence + i, flow=flow, weight=weight)
            for i, t in enumerate(sizes)
        ]
        self.sequence += len(rows)
        size_bytes = sum(each.size_bytes for each in (*self.waiting, *rows))
        try:
            self.queue.put(rows)
        except errors.Overloaded:
            assert size_bytes > self.MAX_BYTES
        else:
            assert size_bytes <= self.MAX_BYTES
            self.waiting += rows

    @rule(later=st.integers(-5, 5), max_rows=st.integers(1, 6), delay_s=st.sampled_from([0, 1]),
          price=prices)  # fmt: skip
    def take(self, later, max_rows, delay_s, price):
        """A lane takes a batch; what ran before is done."""
        bound = limits(max_rows=max_rows, max_delay_s=delay_s)
        assert (self.queue.ready_at(bound) == math.inf) is (not self.waiting)
        taken = self.queue.take(bound, NOW + later, price)
        gone = {id(each) for each in (*taken.batch, *taken.expired)}
        assert gone <= {id(each) for each in self.waiting}
        assert all(not each.cancelled for each in taken.batch)
        self.waiting = [each for each in self.waiting if id(each) not in gone]
        self.running = taken.batch

    @rule(seed=st.integers())
    def cancel(self, seed):
        """A caller goes away."""
        known = [*self.waiting, *self.running]
        if known:
            one = random.Random(seed).choice(known)
            assert self.queue.cancel(one) is (one in self.waiting)
            self.waiting = [each for each in self.waiting if each is not one]
            self.running = [each for each in self.running if each is not one]

    @rule(blamed=st.booleans())
    def worker_dies(self, blamed):
        """The rows that ran come back, suspects or not."""
        for each in self.running:
            each.isolate = blamed
        self.queue.put_back(self.running)
        self.waiting += self.running
        self.running = []

    @rule()
    def refuse_some(self):
        """All are drained and put back, as when an adapter is gone."""
        rows = self.queue.drain()
        assert set(rows) == set(self.waiting)
        self.queue.put_back(rows)

    @invariant()
    def counts_are_right(self):
        """The queue knows how much waits, and until when."""
        rows = self.waiting
        assert set(self.queue) == set(rows)
        assert len(self.queue) == len(rows)
        assert self.queue.tokens == sum(each.tokens for each in rows)
        assert self.queue.everything == admission.Work.of(rows)
        assert self.queue.longest == max((each.tokens for each in rows), default=0)
        assert self.queue._bytes == sum(each.size_bytes for each in rows)
        assert sum(each.tokens for each in self.queue._flows.values()) == sum(
            each.tokens for each in rows if not each.isolate
        )
        assert self.queue.next_is_isolated is any(each.isolate for each in rows)

    @invariant()
    def windows_are_right(self):
        """The oldest that waits opens the window, and half of the least time ends it."""
        if self.waiting and not self.queue.next_is_isolated and self.queue._company > 0.5:
            end_s = min(
                *(min(each.arrival_s + 1, (each.arrival_s + each.deadline_s) / 2)
                  for each in self.waiting),
                math.inf,
            )  # fmt: skip
            bound = limits(max_tokens=10**6, max_rows=10**6, max_delay_s=1)
            assert self.queue.ready_at(bound) == pytest.approx(end_s)


class TestQueueHistory(QueueMachine.TestCase):
    """See `QueueMachine` (D5, D6, D9)."""

    settings = settings(
        max_examples=50,
        stateful_step_count=25,
        deadline=None,
        phases=set(Phase) - {Phase.explain},
    )
