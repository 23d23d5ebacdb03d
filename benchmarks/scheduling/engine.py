"""The event loop: arrivals, lanes that finish, and a policy that is asked in between."""

import heapq
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.scheduling.service import Service
from benchmarks.scheduling.traces import Call

MAX_EVENTS = 5_000_000


@dataclass(slots=True, eq=False)
class Item:
    """One row of a call, as policies see it. Knows nothing of what it will cost."""

    call: int  # place of its call in the trace
    tokens: int
    arrival_s: float
    deadline_s: float
    tenant: str
    model: str


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Batch:
    """What one lane runs next, all of one model."""

    items: Sequence[Item]
    padded: bool = False  # every row costs as much as the longest


class Policy(ABC):
    """What decides. Time is given, in seconds from the start."""

    @abstractmethod
    def offer(self, items: Sequence[Item], now_s: float) -> bool:
        """Takes in the rows of one call, all or none; False refuses it at once."""

    @abstractmethod
    def take(self, now_s: float, idle: int) -> Batch | None:
        """The batch for the next of so many idle lanes, or None to wait."""

    @abstractmethod
    def wakes_at(self, now_s: float, idle: int) -> float:
        """When `take` is to be asked again though nothing arrived or ended; infinity for never."""

    def finished(self, batch: Batch, seconds: float, now_s: float) -> None:  # noqa: B027 - optional
        """A lane was busy with the batch for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A standstill: of a lane with whatever it holds, or of a model wherever it runs.

    A model that stands still does not compute: its lane is free for another.
    """

    at_s: float
    seconds: float
    lane: int | None = None
    model: str | None = None

    def delay_s(self, start_s: float, seconds: float) -> float:
        """How much longer a batch takes that starts then and needs so long."""
        if start_s >= self.at_s + self.seconds or start_s + seconds <= self.at_s:
            return 0.0
        return self.seconds - max(0.0, start_s - self.at_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Lanes that any model may use, one batch each at a time.

    `noise` is the spread (sigma of a lognormal of median 1) of seconds around the formula.
    """

    services: Mapping[str, Service]
    lanes: int = 1
    noise: float = 0.05
    stalls: tuple[Stall, ...] = ()


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of each call of a trace, and of the lanes' time."""

    refused: list[bool]
    finished_s: list[float]  # when the last row was answered; infinity for never
    busy_s: float = 0.0
    wasted_s: float = 0.0  # of it, spent on rows that were answered too late
    batches: list[int] = field(default_factory=list)  # rows of each


def run(trace: Sequence[Call], policy: Policy, device: Device, *, seed: int) -> Outcome:
    """Plays a trace against a policy until nothing can be in time any more."""
    return _Run(trace, policy, device, seed).all()


class _Run:
    def __init__(self, trace: Sequence[Call], policy: Policy, device: Device, seed: int) -> None:
        self.trace = trace
        self.policy = policy
        self.device = device
        self.outcome = Outcome(refused=[False] * len(trace), finished_s=[math.inf] * len(trace))
        self.left = [len(call.lengths) for call in trace]
        self.idle = list(range(device.lanes))
        # Time, number, and what happens: a lane is free, a batch ends.
        self.due: list[tuple[float, int, int | None, Batch | None, float]] = []
        self.numbers = itertools.count()
        self.rng = np.random.default_rng(seed)
        self.end_s = max((call.deadline_s for call in trace), default=0.0)

    def all(self) -> Outcome:
        """Until no deadline is left."""
        arrived, now_s = 0, 0.0
        for _ in range(MAX_EVENTS):
            arrival_s = self.trace[arrived].arrival_s if arrived < len(self.trace) else math.inf
            due_s = self.due[0][0] if self.due else math.inf
            wakes_s = max(now_s, self.policy.wakes_at(now_s, len(self.idle)))
            now_s = min(arrival_s, due_s, wakes_s)
            if now_s > self.end_s:
                return self.outcome
            if due_s <= now_s:
                self._end(now_s)
            elif arrival_s <= now_s:
                self._arrive(arrived, now_s)
                arrived += 1
            self._start(now_s)
        raise RuntimeError(f"a run must end within {MAX_EVENTS} events: does a policy never wait?")

    def _arrive(self, number: int, now_s: float) -> None:
        call = self.trace[number]
        items = [
            Item(number, tokens, now_s, call.deadline_s, call.tenant, call.model)
            for tokens in call.lengths
        ]
        self.outcome.refused[number] = not self.policy.offer(items, now_s)

    def _start(self, now_s: float) -> None:
        """Gives idle lanes what there is."""
        while (batch := self.policy.take(now_s, len(self.idle))) is not None:
            lane = self.idle.pop() if self.idle else None
            seconds, freed_s = self._seconds(batch, lane, now_s)
            if freed_s < math.inf:
                heapq.heappush(self.due, (freed_s, next(self.numbers), lane, None, 0.0))
                lane = None
            heapq.heappush(self.due, (now_s + seconds, next(self.numbers), lane, batch, seconds))

    def _seconds(self, batch: Batch, lane: int | None, now_s: float) -> tuple[float, float]:
        """How long the batch takes, and when its model stands still and frees the lane."""
        lengths = [item.tokens for item in batch.items]
        model = batch.items[0].model
        seconds = self.device.services[model].seconds(lengths, padded=batch.padded)
        if self.device.noise:
            seconds *= math.exp(self.device.noise * self.rng.standard_normal())
        freed_s = math.inf
        for stall in self.device.stalls:
            if lane is not None and stall.lane == lane:
                seconds += stall.delay_s(now_s, seconds)
            if stall.model == model and (delay_s := stall.delay_s(now_s, seconds)):
                seconds += delay_s
                freed_s = max(now_s, stall.at_s)
        return seconds, freed_s

    def _end(self, now_s: float) -> None:
        _, _, lane, batch, seconds = heapq.heappop(self.due)
        if lane is not None:
            self.idle.append(lane)
        if batch is None:
            return
        late = 0
        for item in batch.items:
            late += item.deadline_s < now_s
            self.left[item.call] -= 1
            if not self.left[item.call]:
                self.outcome.finished_s[item.call] = now_s
        self.outcome.busy_s += seconds
        self.outcome.wasted_s += seconds * late / len(batch.items)
        self.outcome.batches.append(len(batch.items))
        self.policy.finished(batch, seconds, now_s)
