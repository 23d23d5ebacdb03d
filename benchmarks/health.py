"""Health checks while every lane is busy: does a probe hear within 10 ms?

`python -m benchmarks.health`. Starts its own daemon with the quick start's manifest, asks for
health every few milliseconds, first of an idle daemon, then beside callers that keep all lanes
full. `--nice 0 1 5` gives the worker's threads each of these priorities in turn, and shows what
that costs in answered texts; without it the worker keeps its own.
"""

import argparse
import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

import bertd
from benchmarks import daemon
from bertd.client import admin

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
PROBE_EVERY_S = 0.005
CALLERS = 4
TEXTS_OF_A_CALL = 32
TEXT = "a film so clever and so warm that one forgives the length of every single scene in it"
SETTLE_S = 1.0
TURNS = 3
BAR_MS = 10.0


def main() -> int:
    """Prints the table; 1 where the bar is missed with the worker's own niceness."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn")
    parser.add_argument("--nice", type=int, nargs="*", default=[])
    parser.add_argument("--load", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load, options.seconds)
        return 0
    with tempfile.TemporaryDirectory(prefix="bertd-health-") as folder:
        return measure(Path(folder), options.seconds, options.nice or [None])


def measure(folder: Path, seconds: float, priorities: list[int | None]) -> int:
    """Everything, in turns."""
    found: dict[str, list[float]] = {}
    texts: dict[str, list[float]] = {}
    with daemon.running(folder):
        daemon.apply(QUICKSTART / "manifest.yaml")
        stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(f"unix:{folder / 'admin.sock'}"))
        for _ in range(TURNS):
            found.setdefault("idle", []).extend(probe(stub, seconds))
            for priority in priorities:
                if priority is not None:
                    renice(priority)
                name = "busy" if priority is None else f"busy, worker at nice {priority}"
                with busy(folder, seconds) as rates:
                    found.setdefault(name, []).extend(probe(stub, seconds))
                texts.setdefault(name, []).extend(rates)
    print("| | checks | p50 ms | p99 ms | max ms | texts/s |\n|---|---|---|---|---|---|")
    for name, times in found.items():
        p50, p99 = np.percentile(times, (50, 99))
        rate = f"{np.median(texts[name]):.0f}" if name in texts else "-"
        print(f"| {name} | {len(times)} | {p50:.2f} | {p99:.2f} | {max(times):.2f} | {rate} |")
    return int(any(np.percentile(times, 99) > BAR_MS for times in found.values()))


def probe(stub: health_pb2_grpc.HealthStub, seconds: float) -> Iterator[float]:
    """Milliseconds of each health check for so long."""
    request = health_pb2.HealthCheckRequest(service="live")
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        stub.Check(request)
        yield (time.perf_counter() - began) * 1e3
        time.sleep(PROBE_EVERY_S)


@contextlib.contextmanager
def busy(folder: Path, seconds: float) -> Iterator[list[float]]:
    """Callers in a process of their own; the list gets the texts per second that they were told."""
    rates: list[float] = []
    command = [sys.executable, "-m", "benchmarks.health", "--load", str(folder / "admin.sock")]
    command += ["--seconds", str(seconds + 2 * SETTLE_S)]
    callers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(2 * SETTLE_S)  # until they have imported and connected
        yield rates
    finally:
        rates.append(float(callers.communicate()[0]))


def load(address: str, seconds: float) -> None:
    """Keeps the daemon full for so long, and prints the texts that were answered per second."""

    async def call(client: bertd.AsyncClient, until: float) -> int:
        answered = 0
        while time.monotonic() < until:
            with contextlib.suppress(bertd.CallError):  # refused: the queue is full, as it shall be
                await client.classify([TEXT] * TEXTS_OF_A_CALL, model="quickstart", adapter="sst2")
                answered += TEXTS_OF_A_CALL
        return answered

    async def run() -> None:
        async with bertd.AsyncClient(address) as client:
            began = time.monotonic()
            counts = await asyncio.gather(*(call(client, began + seconds) for _ in range(CALLERS)))
            print(sum(counts) / (time.monotonic() - began))

    asyncio.run(run())


def renice(priority: int) -> None:
    """Gives every thread of the worker this priority; lowering the number needs privileges."""
    with admin.AdminClient() as client:
        pid = int(str(client.get("Model", "quickstart").status.details["workerPid"]))
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(re.sub(r"\D", "", thread)), priority)


if __name__ == "__main__":
    raise SystemExit(main())
