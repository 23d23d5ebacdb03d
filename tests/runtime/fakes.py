"""A worker that does what a test says, a clock that a test moves, and rows to send."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import prometheus_client

from bertd import errors, frames, metrics
from bertd.batching import policy
from bertd.runtime import devices, dispatcher, feeder, gate, revision, slots, worker
from bertd.tokenization import tokenizer

LIMITS = policy.Limits(max_tokens=100, max_rows=10)
SLOT_BYTES = 100
OPERATIONS_PER_TOKEN = 2_000.0  # as a fake worker counts them
ROOM_BYTES = 1_000_000
SPOILT = {"kind": "BadArtifact", "message": "broken", "reason": "BlobCorrupt", "hint": ""}


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FakeWorker:
    """Records batches; answers, fails or dies when told."""

    spoilt: ClassVar[frozenset[str]] = frozenset()
    facts: ClassVar[dict[str, Any]] = {"slotBytes": SLOT_BYTES}

    def __init__(self, listener: worker.Listener) -> None:
        self.lost = False
        self.pid = 4242
        self.running: dict[int, frames.Batch] = {}
        self.ahead: dict[int, frames.Batch] = {}  # what lanes run next
        self.loaded: dict[int, str] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.groups: list[list[str]] = []  # digests of every load, in order
        self.refuse: errors.Error | None = None
        self._listener = listener

    async def control(
        self, operation: str, timeout_s: float = 0.0, **fields: Any
    ) -> dict[str, Any]:
        if self.refuse is not None:
            raise self.refuse
        if operation == "load":
            return await self.load(fields["adapters"])
        return self.facts if operation == "start" else {}

    async def load(self, adapters: list[dict[str, Any]]) -> dict[str, Any]:
        """Loads all but those whose digest a test has spoilt."""
        self.groups.append([each["digest"] for each in adapters])
        good = [each for each in adapters if each["digest"] not in self.spoilt]
        self.loaded |= {each["slot"]: each["digest"] for each in good}
        failed = {str(each["slot"]): SPOILT for each in adapters if each not in good}
        return {"failed": failed, "headBytes": {str(each["slot"]): 1 for each in good}}

    def tell(self, operation: str, **fields: Any) -> None:
        self.told.append((operation, fields))
        if operation == "free":
            for slot in fields["slots"]:
                self.loaded.pop(slot, None)

    def send(self, lane: int, frame: bytes) -> None:
        view = memoryview(frame)
        header = frames.decode_header(view)
        batch = frames.decode_batch(header, view[frames.HEADER.size :])
        assert lane not in self.ahead, "a lane knows of one batch more than it runs"
        (self.ahead if lane in self.running else self.running)[lane] = batch

    async def close(self) -> None:
        self.lost = True

    def finish(self, lane: int, rows: int | None = None, seconds: float = 0.001) -> frames.Batch:
        """Answers a batch: each row gets [its first token, its slot]; or only `rows` of them."""
        done = self._next(lane)
        starts = np.cumsum(done.lengths_B) - done.lengths_B
        vectors = [
            np.array([done.ids_T[start], slot], np.float32)
            for start, slot in zip(starts, done.slots_B, strict=True)
        ]
        self._deliver(
            lane,
            frames.encode_result(
                frames.Result(
                    id=done.id,
                    seconds=seconds,
                    operations=OPERATIONS_PER_TOKEN * float(done.lengths_B.sum()),
                    vectors=vectors[:rows],
                )
            ),
        )
        return done

    def fail(self, lane: int) -> frames.Batch:
        """Answers a batch with a failure."""
        done = self._next(lane)
        self._deliver(lane, frames.encode_failure(frames.Failure(id=done.id, message="boom")))
        return done

    def die(self) -> None:
        """Ends without answering anything."""
        self.lost = True
        self.running.clear()
        self.ahead.clear()
        self._listener.on_lost()

    def _next(self, lane: int) -> frames.Batch:
        done = self.running.pop(lane)
        if lane in self.ahead:
            self.running[lane] = self.ahead.pop(lane)
        return done

    def _deliver(self, lane: int, frame: bytes) -> None:
        view = memoryview(frame)
        header = frames.decode_header(view)
        self._listener.on_result(lane, header, view[frames.HEADER.size :])


class Bench:
    """A started revision over fake workers."""

    def __init__(self, lanes: int = 1, limits: policy.Limits = LIMITS) -> None:
        self.clock = Clock()
        self.workers: list[FakeWorker] = []
        self.registry = prometheus_client.CollectorRegistry()
        self.metrics = metrics.Metrics(self.registry)
        self.device = dispatcher.Dispatcher(lanes, self.clock)
        self.devices = devices.Devices(self.device, self.clock)
        self._kind: type[FakeWorker] = FakeWorker
        self.revision = self.another("m", limits)

    def another(self, model: str, limits: policy.Limits = LIMITS) -> revision.Revision:
        """One more revision on the same device."""
        admission = gate.Limits(batch=limits, max_queue_delay_s=60.0)
        made = revision.Revision(
            revision.Build(
                name=f"{model}-1", model=model, files={}, precision="fp32", pooling="mean"
            ),
            admission,
            devices=self.devices,
            metrics=self.metrics,
            clock=self.clock,
            spawn=self._spawn,
        )
        made.set_limits(admission, ROOM_BYTES)
        return made

    @property
    def process(self) -> FakeWorker:
        """The youngest worker."""
        return self.workers[-1]

    async def _spawn(self, lanes: int, listener: worker.Listener) -> FakeWorker:
        self.workers.append(self._kind(listener))
        return self.workers[-1]

    def use(self, kind: type[FakeWorker]) -> None:
        """Makes every worker from now on one of this kind."""
        self._kind = kind

    def declare(self, digest: str) -> slots.Content:
        """Declares an adapter; it is loaded when the loop turns."""
        return self.revision.adapters.declare(slots.Content(digest, Path(f"/{digest}")))

    async def load(self, digest: str = "d") -> slots.Content:
        """Declares an adapter and waits until it is in memory."""
        content = self.declare(digest)
        await self.revision.adapters.settled()
        return content

    def slot(self, digest: str) -> int:
        """Where an adapter lies in the youngest worker's table."""
        return next(slot for slot, held in self.process.loaded.items() if held == digest)

    def call(
        self,
        *tokens: int,
        by: slots.Content | slots.Entry | None = None,
        deadline_s: float = 10.0,
        length: int = 4,
        target: revision.Revision | None = None,
        flow: feeder.Flow = feeder.BASE_FLOW,
    ) -> asyncio.Task[Any]:
        """Starts a call with one row per given first token."""
        chosen = target or self.revision
        rows = [
            tokenizer.Encoded(np.full(length, token, np.int32), np.zeros(length, np.uint8))
            for token in tokens
        ]
        coroutine = chosen.run(
            rows, by or chosen.base, frames.Task.CLASSIFY, self.clock() + deadline_s, flow
        )
        return asyncio.ensure_future(coroutine)

    def counter(self, name: str, **labels: str) -> float:
        """The value of a series, 0 where it does not exist."""
        return self.registry.get_sample_value(name, labels) or 0.0


async def turn() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Turns the loop until something is true; the test's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


async def started(
    lanes: int = 1, limits: policy.Limits = LIMITS, kind: type[FakeWorker] = FakeWorker
) -> Bench:
    """A bench whose revision serves, by workers of this kind."""
    bench = Bench(lanes, limits)
    bench.use(kind)
    await bench.revision.start()
    return bench
