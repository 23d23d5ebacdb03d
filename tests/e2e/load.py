"""Load on a real daemon, for tests: calls that remember how they ended, and what metrics say.

Tests share their cores with whatever else runs, so the engine is slowed down to a known pace (see
`paced`): then the daemon's policy decides what happens, and not who gets a core. They compare
counts, and rates and times that were measured beside each other.
"""

import asyncio
import os
import time
import urllib.request
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from prometheus_client import parser

from bertd.client import failure
from bertd.load import calls, generator
from bertd.load.outcome import Outcome
from bertd.v1 import inference_pb2 as pb
from tests import checkpoints
from tests.e2e import conftest

CLASSIFY = "/bertd.v1.Inference/Classify"
MODEL = "paced"
# A batch takes 2 ms and 0.5 ms a token, so a row of 16 takes 8 ms, and about 120 a second run.
PACE = "0.002,0.0005"
WORDS = 14  # and two special tokens
# Wide enough that attention is a small part, as the daemon expects of it and the pace has it.
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}
SETTLED_S = 20.0
ENDS = {
    grpc.StatusCode.OK: Outcome.OK,
    grpc.StatusCode.UNAVAILABLE: Outcome.REFUSED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.EXPIRED,
}


def manifest(
    adapters: Mapping[str, float], *, model: str = MODEL, batching: str = "maxQueueDelay: 5s"
) -> str:
    """A Model of the base beside the manifest, with adapters of these weights."""
    lines = [
        "apiVersion: bertd.dev/v1",
        "kind: Model",
        f"metadata: {{name: {model}}}",
        "spec:",
        "  base: {source: ./base}",
        "  precision: fp32",
        f"  batching: {{{batching}}}",
        "  adapters:",
        *(
            f"    - {{name: {name}, source: ./a.safetensors, weight: {weight:g}}}"
            for name, weight in adapters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def running(
    folder: Path, *manifests: str, wall_clock_jumps: bool = False
) -> Iterator[conftest.Daemon]:
    """A daemon of one paced lane, with these Models declared and Ready."""
    usual = dict(os.environ)
    os.environ["PYTHONPATH"] = str(Path(__file__).with_name("paced"))
    os.environ["BERTD_TEST_PACE"] = PACE
    os.environ["BERTD_TEST_CLOCK"] = "jumps" if wall_clock_jumps else ""
    try:
        with conftest.running(folder, ["--lanes", "1"]) as daemon:
            checkpoints.write(folder / "base", **SIZES)
            described = checkpoints.describe(folder / "base")
            checkpoints.adapter(folder / "a.safetensors", described, labels=2)
            daemon.apply("---\n".join(manifests))
            yield daemon
    finally:
        os.environ.clear()
        os.environ.update(usual)


def request(adapter: str = "a", *, model: str = MODEL, words: int = WORDS, texts: int = 1) -> bytes:
    """A Classify request."""
    inputs = [pb.Input(text="w1 " * words)] * texts
    return pb.ClassifyRequest(model=model, adapter=adapter, inputs=inputs).SerializeToString()


@dataclass(frozen=True, slots=True)
class Ended:
    """One call: when it began and how long it took by the monotonic clock, and its status."""

    began_s: float
    seconds: float
    code: grpc.StatusCode
    pushback_ms: int | None = None
    reply: bytes = b""


@dataclass(eq=False)
class Wire:
    """Calls over one connection; a target for `bertd.load`."""

    channel: grpc.aio.Channel
    ended: list[Ended] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.method = self.channel.unary_unary(CLASSIFY)

    async def call(self, body: bytes, timeout_s: float | None = None) -> Ended:
        """Calls once and returns how it ended, whatever it was."""
        began_s = time.monotonic()
        try:
            reply = await self.method(body, timeout=timeout_s)
            end = Ended(began_s, time.monotonic() - began_s, grpc.StatusCode.OK, reply=reply)
        except grpc.aio.AioRpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            pushback = trailers.get(failure.PUSHBACK_KEY)
            end = Ended(
                began_s,
                time.monotonic() - began_s,
                error.code(),
                None if pushback is None else int(pushback),
            )
        self.ended.append(end)
        return end

    def start(self, body: bytes, timeout_s: float, done: calls.Done) -> None:
        """As `bertd.load` wants its targets."""

        async def run() -> None:
            end = await self.call(body, timeout_s)
            outcome = ENDS.get(end.code, Outcome.FAILED)
            done(calls.Ended(outcome, end.began_s + end.seconds, end.reply, end.code.name))

        task = asyncio.create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def seconds(self, code: grpc.StatusCode = grpc.StatusCode.OK) -> list[float]:
        """How long the calls took that ended with a status."""
        return [each.seconds for each in self.ended if each.code is code]

    def count(self, code: grpc.StatusCode) -> int:
        """How many calls ended with a status."""
        return sum(each.code is code for each in self.ended)


@asynccontextmanager
async def wire(daemon: conftest.Daemon) -> AsyncIterator[Wire]:
    """A connection of its own to the data port."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(daemon.data, options=options) as channel:
        yield Wire(channel)


async def capacity(daemon: conftest.Daemon, *, seconds: float = 1.5) -> float:
    """Answers a second to as many callers as keep the daemon busy."""
    plan = generator.Plan(concurrency=8, duration_s=seconds, warm_up_s=0.5, deadline_s=30)
    async with wire(daemon) as target:
        tally = await generator.Generator(plan, target, request).run()
    assert tally.ok == tally.sent > 0, tally
    return tally.answered / tally.duration_s


async def until_cancelled(target: Wire, body: bytes, timeout_s: float = 30) -> None:
    """One caller who asks again when he has his answer, or is refused, and asked to wait."""
    while True:
        end = await target.call(body, timeout_s)
        if end.code is not grpc.StatusCode.OK:
            await asyncio.sleep(max(end.pushback_ms or 0, 10) / 1000)


@asynccontextmanager
async def beside(*loops: "Loop") -> AsyncIterator[None]:
    """Runs endless loops like `until_cancelled` beside the body, and ends them after it."""
    tasks = [asyncio.create_task(each) for each in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for each in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(each, Exception):
                raise each


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Rows:
    """What the daemon's counters say became of a model's rows, from when this was made on.

    That is once the calls of before, which nobody waits for any more, have ended.
    """

    ENDS = ("answered", "refused", "expired", "cancelled", "failed")

    def __init__(self, daemon: conftest.Daemon, model: str = MODEL) -> None:
        self._daemon = daemon
        self._model = model
        deadline_s = time.monotonic() + SETTLED_S
        while not self._is_settled(before := self._read()):
            assert time.monotonic() < deadline_s, f"rows were lost, or counted twice: {before}"
            time.sleep(0.05)
        self._before = before

    def since(self) -> dict[str, int]:
        """Rows received, and how they ended."""
        now = self._read()
        return {name: now[name] - self._before[name] for name in now}

    async def settled(self) -> dict[str, int]:
        """As `since`, once nothing is in flight: each row has ended in exactly one way by then."""
        deadline_s = time.monotonic() + SETTLED_S
        while True:
            found = self.since()
            if self._is_settled(found):
                return found
            assert time.monotonic() < deadline_s, f"rows were lost, or counted twice: {found}"
            await asyncio.sleep(0.05)

    def _is_settled(self, rows: Mapping[str, int]) -> bool:
        return rows["received"] == sum(rows[name] for name in self.ENDS)

    def _read(self) -> dict[str, int]:
        found = samples(self._daemon)
        of_model = {name: 0 for name in ("received", *self.ENDS)}
        for (name, labels), value in found.items():
            told = dict(labels)
            if told.get("model") != self._model:
                continue
            if name == "bertd_rows_received_total":
                of_model["received"] += round(value)
            elif name == "bertd_rows_total":
                of_model[told["outcome"]] += round(value)
        return of_model


Loop = Coroutine[object, object, None]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(daemon: conftest.Daemon) -> Samples:
    """Every value that the daemon exports."""
    with urllib.request.urlopen(daemon.metrics) as page:
        text = page.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def series(daemon: conftest.Daemon, name: str, **labels: str) -> float:
    """The sum of the series of a name that have these labels."""
    wanted = frozenset(labels.items())
    found = samples(daemon).items()
    return sum(value for (each, has), value in found if each == f"bertd_{name}" and wanted <= has)


async def until(condition: Callable[[], bool]) -> None:
    """Polls; the test's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.02)


def codes(ended: Iterable[Ended]) -> set[str]:
    """The statuses that calls ended with."""
    return {each.code.name for each in ended}
