"""bertd's own policy: the code that serves, in virtual time.

Queue, order, costs, admission and shares are `bertd.batching`'s, and who asks for them when is
`bertd.runtime`'s feeder and dispatcher. Only their edges are other ones: rows come without futures
and go without frames, and the alarm clock is the engine's.
"""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.scheduling.engine import Batch, Item, Policy
from benchmarks.scheduling.service import Service
from bertd import errors, metrics
from bertd.batching import cost, policy
from bertd.runtime import dispatcher, feeder, gate, lanes

# What workers run before the first call (`bertd.engine.runner`, which needs torch).
TRIAL_ROWS, TRIAL_TOKENS = (1, 8), 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a manifest says of batching; `knows`: the true cost is known from the start."""

    limits: policy.Limits
    max_queue_delay_s: float
    knows: bool = False


class Clock:
    """The time, as the engine last told it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """As `time.monotonic`."""
        return self.now_s


class Device(dispatcher.Dispatcher):
    """The dispatcher, with its alarm clock in the hands of the engine."""

    @property
    def wakes_at_s(self) -> float:
        """When it wants to be pumped."""
        return self._wake_at_s

    def _wake_by(self, at_s: float) -> None:
        self._wake_at_s = min(self._wake_at_s, at_s)


class Model(feeder.Feeder):
    """The feeder, with rows of the simulation and lanes of the engine."""

    def __init__(self, service: Service, options: Options, device: Device, clock: Clock) -> None:
        super().__init__(
            service.name,
            gate.Limits(batch=options.limits, max_queue_delay_s=options.max_queue_delay_s),
            device=device,
            metrics=metrics.Metrics(CollectorRegistry()),
            clock=clock,
            send=_nowhere,
        )
        self.open = True
        self.learns = not options.knows
        self.learn_worker(_facts(service))
        if options.knows:
            self._gate.cost.price = cost.Price(
                fixed_s=service.fixed_s, token_s=service.token_s, square_s=service.square_s
            )
        self.started: deque[Batch] = deque()  # what the engine is to put on a lane
        self.batches: dict[int, deque[Batch]] = {}  # on each lane: the one that runs, the next one

    def offer(self, rows: Sequence[policy.Row], now_s: float) -> bool:
        """Admits a call or refuses it."""
        try:
            self._admit(rows, now_s)
        except (errors.Overloaded, errors.Expired):
            return False
        self._device.pump_for(self)
        return True

    def finished(self, batch: Batch, seconds: float) -> None:
        """A lane answered; the batch that it was sent ahead, if any, starts."""
        lane = next(lane for lane, each in self.batches.items() if each[0] is batch)
        self.batches[lane].popleft()
        done = self._lanes.end(lane)
        if self.batches[lane]:
            self.started.append(self.batches[lane][0])
        else:
            del self.batches[lane]
        if self.learns:
            self._gate.cost.learn((row.tokens for row in done.rows), seconds)
        self._device.release(done.lease)

    def _dispatch(self, lane: int, rows: list[policy.Row], threads: int) -> dispatcher.Lease:
        expected_s = self._gate.price.batch_s(row.tokens for row in rows)
        lease = dispatcher.Lease(holder=self, permits=threads, expected_s=expected_s)
        self._lanes.begin(lane, lanes.Running(rows, lease))
        batch = Batch(items=[row.payload for row in rows])  # type: ignore[misc]
        self.batches.setdefault(lane, deque()).append(batch)
        if len(self.batches[lane]) == 1:
            self.started.append(batch)
        return lease

    def _expire(self, row: policy.Row) -> None:
        """Its caller went away at its deadline."""


class Bertd(Policy):
    """The models of one device."""

    def __init__(self, services: Mapping[str, Service], permits: int, options: Options) -> None:
        self.clock = Clock()
        self.device = Device(permits, self.clock)
        self.sequence = itertools.count()
        self.models = {
            name: Model(service, options, self.device, self.clock)
            for name, service in services.items()
        }
        for model in self.models.values():
            self.device.add(model)

    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Admission, then the bounded queue."""
        self.clock.now_s = now_s
        rows = [
            policy.Row(
                tokens=item.tokens, deadline_s=item.deadline_s, arrival_s=now_s,
                sequence=next(self.sequence), flow=item.tenant, payload=item,
            )
            for item in items
        ]  # fmt: skip
        return self.models[items[0].model].offer(rows, now_s)

    def take(self, now_s: float, idle: int) -> Batch | None:
        """What the dispatcher started."""
        self.clock.now_s = now_s
        if self.device.wakes_at_s <= now_s:
            self.device.pump()
        for model in self.models.values():
            if model.started:
                return model.started.popleft()
        return None

    def wakes_at(self, now_s: float, idle: int) -> float:
        """When the dispatcher wants to be woken."""
        return self.device.wakes_at_s

    def finished(self, batch: Batch, seconds: float, now_s: float) -> None:
        """Learns what it cost, and starts what comes next."""
        self.clock.now_s = now_s
        self.models[batch.items[0].model].finished(batch, seconds)


def _facts(service: Service) -> dict[str, Any]:
    """What a worker tells of its model: attention's part of the work, and its first batches."""
    return {
        "operationsPerToken": cost.ATTENTION_SLOWNESS * service.token_s,
        "operationsPerTokenSquared": service.square_s,
        "trials": [
            {
                "rows": rows,
                "tokens": TRIAL_TOKENS,
                "seconds": service.seconds([TRIAL_TOKENS] * rows),
            }
            for rows in TRIAL_ROWS
        ],
    }


def _nowhere(lane: int, frame: bytes) -> None:
    """Nobody reads frames here."""
