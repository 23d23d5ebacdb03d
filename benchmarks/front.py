"""What one call costs the front: core-milliseconds of its process, the engine's work not counted.

`python -m benchmarks.front`. Starts the real daemon with a worker that computes nothing
(`benchmarks.stand_in`), pins the front to one core and everything else to another, sends the same
small message through grpc.aio as often as wanted, and divides the front's processor time by the
calls. A grpc.aio server that sends every message back is the floor: what no change of ours removes.

Processor time hardly depends on what else the machine does; the least of some turns is shown.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from benchmarks import daemon, stand_in
from bertd.v1 import inference_pb2 as pb

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart" / "manifest.yaml"
METHOD = "/bertd.v1.Inference/Classify"
# The length of a sentence of CoLA, 12 tokens with [CLS] and [SEP].
TEXT = "The more you read, the better you can write."
TURNS = 5
DEADLINE_S = 10.0
START_S = 60.0
# What one core computes of BERT-base in int8, 12 tokens a row: batches have the size of real ones.
PACED_ROWS_PER_S = 430.0
OVERLOADED = "maxQueueDelay: 5ms"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table."""

    name: str
    callers: int = 64
    connections: int = 1
    rows_per_s: float = 0.0  # of the stand-in; 0: at once
    batching: str = ""  # YAML
    is_echo: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a number of calls took, for each of them."""

    core_ms: float
    loop_ms: float  # of it in the thread that runs Python
    switches: float
    per_s: float


CASES = (
    Case(name="echo", is_echo=True),
    Case(name="64 callers"),
    Case(name="64 callers, 8 connections", connections=8),
    Case(name="64 callers, 430 rows/s", rows_per_s=PACED_ROWS_PER_S),
    Case(name="1 caller", callers=1),
    Case(name="refused", rows_per_s=20.0, batching=OVERLOADED),
)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=5000, help="of one turn")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        return uvloop.run(echo())
    cores = sorted(os.sched_getaffinity(0))
    os.environ[stand_in.CORE] = str(cores[-1])
    print(f"grpcio {grpc.__version__}, front on core {cores[0]}, the rest on core {cores[-1]}\n")
    print("| | core-ms a call | of it Python's thread | switches a call | calls/s | answers |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        if options.only in case.name:
            measure(case, options.calls, cores)
    return 0


def measure(case: Case, calls: int, cores: Sequence[int]) -> None:
    """Prints one row of the table."""
    with (
        tempfile.TemporaryDirectory(prefix="bertd-front-") as name,
        running(Path(name), case, {cores[0]}) as (pid, address),
    ):
        os.sched_setaffinity(0, {cores[-1]})
        try:
            turns, codes = uvloop.run(load(case, address, pid, calls))
        finally:
            os.sched_setaffinity(0, set(cores))
    best = min(turns, key=lambda turn: turn.core_ms)
    answers = ", ".join(f"{count} {code}" for code, count in codes.most_common())
    print(
        f"| {case.name} | {best.core_ms:.3f} | {best.loop_ms:.3f} | {best.switches:.1f} "
        f"| {best.per_s:.0f} | {answers} |",
        flush=True,
    )


async def load(case: Case, address: str, pid: int, calls: int) -> tuple[list[Turn], Counter[str]]:
    """Some turns of as many calls, each caller's next one when its last is answered."""
    local = [("grpc.use_local_subchannel_pool", 1)]  # else channels share one connection
    channels = [grpc.aio.insecure_channel(address, options=local) for _ in range(case.connections)]
    methods = [channel.unary_unary(METHOD) for channel in channels]
    body = request()
    codes: Counter[str] = Counter()

    async def call(number: int, count: int) -> None:
        method = methods[number % len(methods)]
        for _ in range(count):
            try:
                await method(body, timeout=DEADLINE_S)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1

    async def turn(count: int) -> None:
        each = -(-count // case.callers)
        await asyncio.gather(*(call(number, each) for number in range(case.callers)))

    await turn(calls // 2)  # warms up
    codes.clear()
    turns = []
    for _ in range(TURNS):
        before, began_s = spent(pid), time.perf_counter()
        await turn(calls)
        took_s, after = time.perf_counter() - began_s, spent(pid)
        made = -(-calls // case.callers) * case.callers
        used = [(b - a) / made for a, b in zip(before, after, strict=True)]
        turns.append(Turn(core_ms=used[0], loop_ms=used[1], switches=used[2], per_s=made / took_s))
    await asyncio.gather(*(channel.close() for channel in channels))
    return turns, codes


def request() -> bytes:
    """One text for one adapter."""
    inputs = [pb.Input(text=TEXT)]
    return pb.ClassifyRequest(model="quickstart", adapter="sst2", inputs=inputs).SerializeToString()


def spent(pid: int) -> tuple[float, float, float]:
    """Milliseconds on a core of all threads and of the first, and times they were switched in."""
    found = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds, _, switches = (thread / "schedstat").read_text().split()
        found[int(thread.name)] = int(nanoseconds) / 1e6, int(switches)
    return (
        sum(ms for ms, _ in found.values()),
        found[pid][0],
        sum(switches for _, switches in found.values()),
    )


@contextlib.contextmanager
def running(folder: Path, case: Case, cores: set[int]) -> Iterator[tuple[int, str]]:
    """A server for this case on these cores: its process id and its address."""
    os.environ[stand_in.RATE] = str(case.rows_per_s)
    python = [sys.executable, "-m"]
    is_echo = case.is_echo
    started = (
        ["benchmarks.front", "--echo"] if is_echo else [stand_in.__name__, "--serve", str(folder)]
    )
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # inherited
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*python, *started], stderr=log, cwd=ROOT)
    os.sched_setaffinity(0, usual)
    try:
        address = listening(folder / "log")
        if not case.is_echo:
            os.environ["BERTD_SERVER"] = str(folder / "admin.sock")
            daemon.apply(declared(folder, case.batching))
        yield server.pid, address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(daemon.STOP_S)


def listening(log: Path) -> str:
    """The address that a server has logged."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if found := re.search(r'"address": "(127[0-9.:]+)"', log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


def declared(folder: Path, batching: str) -> Path:
    """The quick start's manifest, beside the same adapters."""
    manifest = QUICKSTART.read_text()
    if batching:
        manifest = manifest.replace("  adapters:", f"  batching: {{{batching}}}\n  adapters:")
    (folder / "adapters").symlink_to(QUICKSTART.parent / "adapters")
    (folder / "manifest.yaml").write_text(manifest)
    return folder / "manifest.yaml"


async def echo() -> int:
    """A grpc.aio server that sends back what it gets, until it is ended."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])

    async def reply(body: bytes, _: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return body

    service, method = METHOD.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(reply)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {method: handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f'"address": "127.0.0.1:{port}"', file=sys.stderr, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
