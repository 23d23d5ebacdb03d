"""The load generator: a process that reads an order from stdin and writes what it saw to stdout.

It is alone on its core, knows neither numpy nor models, and sends bytes that were made before. A
call is a triple: seconds when it was due since the load began, seconds from then to its end,
outcome.
"""

import asyncio
import base64
import gc
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import uvloop

from benchmarks.serving import transports

Call = tuple[float, float, int]
LEAD_S = 0.05  # between the drawing of arrivals and the first
AFTER_REFUSAL_S = 0.01


class Load:
    """What all kinds of load share."""

    def __init__(self, transport: transports.Transport, requests: Sequence[bytes]) -> None:
        self.transport = transport
        self.requests = requests
        self.next: Iterator[bytes] = itertools.cycle(requests)
        self.calls: list[Call] = []
        self.late: list[float] = []  # seconds from when a call was due to when it was sent
        self.words: dict[str, int] = {}  # what was said of calls that failed

    async def call(self, due: float, origin: float, timeout_s: float) -> transports.Outcome:
        """One call, on the record."""
        spent = time.perf_counter() - origin - due
        self.late.append(spent)
        outcome, body = await self.transport.call(next(self.next), max(timeout_s - spent, 0.001))
        self.calls.append((due, time.perf_counter() - origin - due, int(outcome)))
        if outcome in (transports.Outcome.FAILED, transports.Outcome.REFUSED):
            words = body[:200].decode(errors="replace")
            if words in self.words or len(self.words) < 8:
                self.words[words] = self.words.get(words, 0) + 1
        return outcome


async def closed(load: Load, concurrency: int, seconds: float, timeout_s: float) -> None:
    """Callers who each ask again as soon as they are answered."""
    origin = time.perf_counter()

    async def caller() -> None:
        while (due := time.perf_counter() - origin) < seconds:
            if await load.call(due, origin, timeout_s) != transports.Outcome.ANSWERED:
                await asyncio.sleep(AFTER_REFUSAL_S)

    await asyncio.gather(*(caller() for _ in range(concurrency)))


async def opened(
    load: Load, phases: Sequence[tuple[float, float]], timeout_s: float, seed: int
) -> None:
    """Callers who come when they come (Poisson), whatever became of those before."""
    arrivals = list(_arrivals(phases, random.Random(seed)))
    origin = time.perf_counter() + LEAD_S
    under_way: set[asyncio.Task[Any]] = set()
    for due in arrivals:
        ahead = due + origin - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(load.call(due, origin, timeout_s))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)


def _arrivals(phases: Sequence[tuple[float, float]], chance: random.Random) -> Iterator[float]:
    begin = 0.0
    for rate, seconds in phases:
        due = begin + chance.expovariate(rate)
        while due < begin + seconds:
            yield due
            due += chance.expovariate(rate)
        begin += seconds


async def burst(load: Load, size: int, repeats: int, timeout_s: float) -> list[float]:
    """So many calls at once, again and again; seconds until all of them were answered."""
    seconds = []
    for _ in range(repeats):
        origin = time.perf_counter()
        await asyncio.gather(*(load.call(0.0, origin, timeout_s) for _ in range(size)))
        seconds.append(time.perf_counter() - origin)
    return seconds


async def answers(load: Load, concurrency: int, timeout_s: float) -> list[str]:
    """Every request once, so many at a time; what was answered, in their order.

    Raises:
        RuntimeError: a call was not answered.
    """
    free = asyncio.Semaphore(concurrency)

    async def ask(request: bytes) -> str:
        async with free:
            outcome, body = await load.transport.call(request, timeout_s)
        if outcome != transports.Outcome.ANSWERED:
            raise RuntimeError(f"{outcome.name}: {body[:300]!r}")
        return base64.b64encode(body).decode()

    return await asyncio.gather(*(ask(request) for request in load.requests))


KINDS = {"closed": closed, "open": opened, "burst": burst, "answers": answers}


async def serve(order: Mapping[str, Any]) -> dict[str, Any]:
    """Carries an order out."""
    transport = transports.connect(order["protocol"], order["port"], order["target"])
    load = Load(transport, [base64.b64decode(each) for each in order["requests"]])
    gc.collect()
    gc.disable()
    began, used = time.perf_counter(), time.process_time()
    try:
        found = await KINDS[order["kind"]](load, **order["options"])
    finally:
        await transport.close()
    return {
        "found": found,
        "calls": [[round(value, 6) for value in call] for call in load.calls],
        "late_s": sorted(load.late)[int(0.99 * len(load.late))] if load.late else 0.0,
        "words": load.words,
        "core_share": (time.process_time() - used) / (time.perf_counter() - began),
    }


def main() -> None:
    """One order, one result."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    print(json.dumps(uvloop.run(serve(json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
