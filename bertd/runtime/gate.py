"""Admission to one revision's queue: what batches cost, what stands ahead, and who may come in."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertd.batching import admission, cost, policy, queue, sharing
from bertd.runtime import dispatcher
from bertd.runtime import lanes as worker_lanes

# A call that comes in by the rough look keeps this much of what is allowed where flows compete:
# others may come and overtake it.
CONTENDED_SHARE = 0.5
CLOSED_S = 0.02  # at most so long what one row was refused for holds for the next of its flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may change while the revision runs."""

    batch: policy.Limits
    max_queue_delay_s: float


class Gate:
    """Predicts, and learns from what batches took.

    `limits` and `device` may be replaced at any time.

    Args:
        limits: batching and admission.
        waiting: the queue.
        lanes: the worker's lanes.
        device: whose permits the revision uses.
        holder: who uses them.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        waiting: queue.Queue,
        lanes: worker_lanes.Lanes,
        device: dispatcher.Dispatcher,
        holder: dispatcher.Runnable,
        clock: Callable[[], float],
    ) -> None:
        self.limits = limits
        self.device = device
        self.cost = cost.Cost()
        self._waiting = waiting
        self._lanes = lanes
        self._holder = holder
        self._clock = clock
        self._enough: tuple[policy.Limits, cost.Price, bool, policy.Limits] | None = None
        self._closed: tuple[Hashable, float, admission.Refusal] | None = None

    @property
    def price(self) -> cost.Price:
        """What batches cost, as far as that is known."""
        return self.cost.price

    @property
    def enough(self) -> policy.Limits:
        """The limits of a batch that is no larger than makes it efficient."""
        limits, price, contended = self.limits.batch, self.cost.price, self._waiting.is_contended
        known = self._enough
        if known and known[0] is limits and known[1] is price and known[2] is contended:
            return known[3]
        enough = sharing.enough(limits, price, is_contended=contended)
        self._enough = (limits, price, contended, enough)
        return enough

    def learn_worker(self, facts: Mapping[str, Any]) -> None:
        """What a new worker tells of its first batches; what an earlier one told is forgotten."""
        trials = facts.get("trials", ())
        self.cost = cost.Cost(
            cost.square_per_token(facts),
            [([each["tokens"]] * each["rows"], each["seconds"]) for each in trials],
        )

    def refusal(self, rows: Sequence[policy.Row], now_s: float) -> admission.Refusal | None:
        """Why the rows of a call may not come in, if they may not."""
        # With nobody ahead even a prediction gone wrong refuses nothing, and is put right.
        if not (len(self._waiting) or self._lanes) or self._is_easy(rows, now_s):
            return None
        found = admission.refusal(
            self._waiting,
            rows,
            now_s=now_s,
            max_queue_delay_s=self.limits.max_queue_delay_s,
            predict=self._predict,
        )
        if found is not None and found.reason == "QueueDelay":
            self._closed = (rows[0].flow, now_s + CLOSED_S, found)
        return found

    def closed(self, flow: Hashable, now_s: float) -> admission.Refusal | None:
        """Why no row of this flow may come in, whatever its length, if that is known.

        What one was refused for holds for the next: the wait is that of all that stands before
        them, and grows until a batch is taken.
        """
        known = self._closed
        if known is None or known[0] != flow or now_s >= known[1]:
            return None
        return known[2]

    def reopen(self) -> None:
        """Something changed: a batch was taken, or ended."""
        self._closed = None

    def wait_s(self) -> float:
        """Seconds that a row arriving now would wait."""
        return self._predict(admission.Ahead(before=self._waiting.everything)).wait_s

    def _is_easy(self, rows: Sequence[policy.Row], now_s: float) -> bool:
        """Whether all that waits, and these rows, would be in time in whatever order.

        A rough look, at a tenth of the price of an exact one, which most calls do not need.
        """
        due_s = min(self._waiting.next_deadline_s, rows[0].order[0]) - now_s
        allowed_s = min(self.limits.max_queue_delay_s, admission.USABLE_SHARE * due_s)
        if self._waiting.is_contended:
            allowed_s *= CONTENDED_SHARE
        price, work = self.cost.price, self._waiting.everything + admission.Work.of(rows)
        others_s = self.device.others_s(self._holder, work.seconds(price, 0))
        busy_s = max(self._lanes.left_s(now_s), self.device.busiest_s())
        latest_s = admission.latest_s(
            work, price=price, limits=self.enough, lanes=self.device.permits
        )
        return busy_s + others_s / self.device.permits + latest_s <= allowed_s

    def _predict(self, ahead: admission.Ahead) -> admission.Forecast:
        price = self.cost.price
        own_s = self._lanes.left_s(self._clock())
        work_s = (ahead.before + ahead.own).seconds(price, 0)
        return admission.forecast(
            ahead,
            price=price,
            limits=self.enough,
            busy_s=[max(own_s, each_s) for each_s in self.device.busy_s()],
            others_s=self.device.others_s(self._holder, work_s),
        )
