"""One lane in virtual time, with exact costs: who is admitted, and when each row is answered."""

import math
from dataclasses import dataclass, field

from bertd.batching import admission, cost, policy, queue
from tests.batching.rows import NOW, row


@dataclass
class Lane:
    """Runs whatever the policy takes, for as long as the price says."""

    limits: policy.Limits
    price: cost.Price
    max_queue_delay_s: float = math.inf
    waiting: queue.Queue = field(default_factory=queue.Queue)
    now_s: float = NOW
    ends_s: float = NOW
    running: list[policy.Row] = field(default_factory=list)
    answered: dict[policy.Row, float] = field(default_factory=dict)
    expired: list[policy.Row] = field(default_factory=list)
    refused: list[admission.Refusal] = field(default_factory=list)
    admitted: int = 0
    sequence: int = 0

    def call(self, lengths: list[int], within_s: float, flow: str = "") -> list[policy.Row]:
        """A call comes now: its rows, none if it was refused."""
        deadline_s = self.now_s + within_s
        rows = [
            row(n, deadline_s, arrival_s=self.now_s, sequence=self.sequence + i, flow=flow)
            for i, n in enumerate(lengths)
        ]
        self.sequence += len(rows)
        refusal = self._refusal(rows)
        if refusal is not None:
            self.refused.append(refusal)
            return []
        self.waiting.put(rows)
        self.admitted += len(rows)
        self._start()
        return rows

    def until(self, at_s: float) -> None:
        """Time passes."""
        while self.running and self.ends_s <= at_s:
            self.now_s = self.ends_s
            self.answered |= dict.fromkeys(self.running, self.now_s)
            self.running = []
            self._start()
        self.now_s = max(self.now_s, at_s) if math.isfinite(at_s) else self.now_s

    def _refusal(self, rows: list[policy.Row]) -> admission.Refusal | None:
        if not len(self.waiting) and not self.running:
            return None
        return admission.refusal(
            self.waiting,
            rows,
            now_s=self.now_s,
            max_queue_delay_s=self.max_queue_delay_s,
            predict=lambda ahead: admission.forecast(
                ahead,
                price=self.price,
                limits=self.limits,
                busy_s=[max(0.0, self.ends_s - self.now_s) if self.running else 0.0],
            ),
        )

    def _start(self) -> None:
        while not self.running and len(self.waiting):
            taken = self.waiting.take(self.limits, self.now_s, self.price)
            self.expired += taken.expired
            self.running = taken.batch
            if self.running:
                self.ends_s = self.now_s + self.price.batch_s(each.tokens for each in self.running)
