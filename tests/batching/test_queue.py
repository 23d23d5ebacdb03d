"""The queue is bounded, forgets cancelled rows at once, and counts right."""

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bertd import errors
from bertd.batching import batch, queue
from tests.batching.test_policy import NOW, limits, row


def test_a_call_is_admitted_whole_or_not_at_all():
    """A call that does not fit leaves nothing behind, and is told when to come again (D10)."""
    waiting = queue.Queue(max_rows=3, max_tokens=100)
    waiting.put([row(sequence=0), row(sequence=1)])
    with pytest.raises(errors.Overloaded) as caught:
        waiting.put([row(sequence=2), row(sequence=3)], retry_after_s=1.5)
    assert caught.value.retry_after_s == 1.5
    assert (len(waiting), waiting.tokens) == (2, 20)
    with pytest.raises(errors.Overloaded):
        waiting.put([row(90, sequence=4)])
    assert (len(waiting), waiting.tokens) == (2, 20)


@pytest.mark.parametrize("call", [[row(1)] * 4, [row(101)]], ids=["rows", "tokens"])
def test_a_call_that_can_never_fit_is_not_told_to_retry(call):
    """A call over the bounds of the empty queue is too large, not too early."""
    with pytest.raises(errors.TooLarge, match="split") as caught:
        queue.Queue(max_rows=3, max_tokens=100).put(call)
    assert not isinstance(caught.value, errors.NotReady)


def test_a_cancelled_row_frees_its_place_at_once():
    """Cancelling one of many equal deadlines removes that row and no other (D5, checklist 56)."""
    waiting = queue.Queue()
    rows = [row(sequence=i) for i in range(5)]
    waiting.put(rows)
    assert waiting.cancel(rows[2])
    assert rows[2].cancelled
    assert (len(waiting), waiting.tokens) == (4, 40)
    assert [r.sequence for r in waiting.take(limits(), NOW).batch] == [0, 1, 3, 4]


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
    waiting = queue.Queue(max_rows=2)
    waiting.put([row(sequence=0), row(sequence=1)])
    lost = waiting.take(limits(max_rows=1), NOW).batch
    waiting.put([row(sequence=2)])
    waiting.put_back(lost)
    assert len(waiting) == 3
    assert [r.sequence for r in waiting.take(limits(), NOW).batch] == [0, 1, 2]


def test_expired_rows_leave_with_the_batch():
    """Taking also removes what expired, and the counts follow."""
    waiting = queue.Queue()
    waiting.put([row(deadline_s=NOW - 1, sequence=0), row(sequence=1)])
    taken = waiting.take(limits(), NOW)
    assert [r.sequence for r in taken.expired] == [0]
    assert [r.sequence for r in taken.batch] == [1]
    assert (len(waiting), waiting.tokens) == (0, 0)


def test_the_next_deadline_is_known():
    """The earliest deadline tells when to look for expired rows."""
    waiting = queue.Queue()
    assert waiting.next_deadline_s == math.inf
    waiting.put([row(deadline_s=NOW + 5, sequence=0), row(deadline_s=NOW + 2, sequence=1)])
    assert waiting.next_deadline_s == NOW + 2


def test_draining_returns_everything():
    """A queue that closes hands all its rows back."""
    waiting = queue.Queue()
    rows = [row(sequence=i) for i in range(3)]
    waiting.put(rows)
    assert waiting.drain() == rows
    assert (len(waiting), waiting.tokens) == (0, 0)


def test_the_queue_and_the_policy_agree_on_readiness():
    """`Queue.ready_at` is `batch.ready_at` of its rows."""
    waiting = queue.Queue()
    assert waiting.ready_at(limits()) == math.inf
    waiting.put([row(sequence=0)])
    for bound in (limits(), limits(max_delay_s=0.5), limits(max_tokens=5, max_delay_s=0.5)):
        assert waiting.ready_at(bound) == batch.ready_at([row(sequence=0)], bound)


def test_every_one_of_a_hundred_gets_into_a_batch():
    """100 rows with at most 10 in a batch are 10 full batches in order of arrival (D2)."""
    waiting = queue.Queue()
    waiting.put([row(1, sequence=i) for i in range(100)])
    batches = [waiting.take(limits(), NOW).batch for _ in range(11)]
    assert [len(b) for b in batches] == [10] * 10 + [0]
    assert [r.sequence for b in batches for r in b] == list(range(100))


@pytest.mark.parametrize(
    ("queued_s", "busy_s", "lanes", "wait_s"),
    [(0.0, 0.0, 1, 0.0), (1.0, 0.0, 1, 1.0), (1.0, 0.5, 1, 1.5), (1.0, 1.0, 2, 1.0)],
)
def test_the_wait_is_the_work_ahead_over_the_lanes(queued_s, busy_s, lanes, wait_s):
    """What stands ahead, and what the lanes still do, is shared by the lanes."""
    assert queue.predicted_wait_s(queued_s, busy_s, lanes) == pytest.approx(wait_s)


class QueueMachine(RuleBasedStateMachine):
    """Any history of puts, takes, cancellations and returns keeps order, bounds and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue.Queue(max_rows=20, max_tokens=200)
        self.waiting: list[batch.Row] = []
        self.running: list[batch.Row] = []
        self.sequence = 0

    @rule(sizes=st.lists(st.integers(1, 60), max_size=6), ahead=st.integers(1, 9))
    def put(self, sizes, ahead):
        """A call arrives, and is admitted if and only if it fits."""
        rows = [row(t, NOW + ahead, sequence=self.sequence + i) for i, t in enumerate(sizes)]
        self.sequence += len(rows)
        fits = len(self.waiting) + len(rows) <= 20 and sum(sizes) + self._tokens() <= 200
        try:
            self.queue.put(rows)
        except (errors.Overloaded, errors.TooLarge):
            assert not fits
        else:
            assert fits
            self.waiting += rows

    @rule(later=st.integers(0, 5))
    def take(self, later):
        """A lane takes a batch; what ran before is done."""
        taken = self.queue.take(limits(max_rows=4), NOW + later)
        gone = {id(r) for r in (*taken.batch, *taken.expired)}
        assert gone <= {id(r) for r in self.waiting}
        self.waiting = [r for r in self.waiting if id(r) not in gone]
        self.running = taken.batch

    @rule(seed=st.integers())
    def cancel(self, seed):
        """A caller goes away."""
        known = [*self.waiting, *self.running]
        if known:
            one = random.Random(seed).choice(known)
            assert self.queue.cancel(one) is (one in self.waiting)
            self.waiting = [r for r in self.waiting if r is not one]
            self.running = [r for r in self.running if r is not one]

    @rule()
    def worker_dies(self):
        """The rows that ran come back."""
        self.queue.put_back(self.running)
        self.waiting += self.running
        self.running = []

    def _tokens(self) -> int:
        return sum(r.tokens for r in self.waiting)

    @invariant()
    def counts_are_right(self):
        """The queue knows how much waits, and until when."""
        assert len(self.queue) == len(self.waiting)
        assert self.queue.tokens == self._tokens()
        assert self.queue.next_deadline_s == min(
            (r.deadline_s for r in self.waiting), default=math.inf
        )


class TestQueueHistory(QueueMachine.TestCase):
    """See `QueueMachine` (D5, D6)."""

    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
