"""Load for as long as one likes: no call may be lost, and nothing may grow.

`make endurance`, or `python -m benchmarks.endurance --minutes 10`. Starts its own daemon with the
quick start's manifest. There are two kinds of load:

- `--load 0.9` (the default): an open loop (Poisson) at that share of the capacity, measured
  before. Memory, threads and descriptors of front and worker are sampled all the while, and
  the slope of each over the second half tells whether anything grows.
- `--kill`: 16 callers on all adapters, while the worker is killed every 10 s and an adapter is
  replaced every second.

Exits with 1 if a call was lost, a row was not accounted for, or something grew. Prints Markdown.
"""

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import parser

import bertd
from benchmarks import daemon, driving
from bertd.client import admin
from bertd.load import generator, outcome, sentences

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
MODEL = "quickstart"
ADAPTERS = ("sst2", "trec", "snips", "cola")
# Of the open loop.
CAPACITY_S = 10.0
DEADLINE_S = 5.0
SAMPLES = 120
# What the second half may add, by its slope: beyond what comes and goes.
MOST_GROWTH = {"resident KiB": 4096.0, "threads": 1.0, "descriptors": 2.0}
# Of the load that kills.
CALLERS = 16
KILL_EVERY_S = 10.0
REPLACE_EVERY_S = 1.0
ADAPTER = """
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {{name: changing}}
spec: {{model: quickstart, source: {source}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one process occupied at one time."""

    at_s: float
    process: str
    signs: dict[str, int]


def main() -> int:
    """Runs the load and prints the result."""
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--load", type=float, default=0.9, help="of the capacity")
    options.add_argument("--capacity-seconds", type=float, default=CAPACITY_S)
    options.add_argument("--kill", action="store_true", help="kill workers, replace adapters")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bertd-endurance-") as name:
        folder = Path(name)
        if asked.kill:
            return asyncio.run(endure(folder, asked.minutes * 60))
        return steady(folder, asked.minutes * 60, asked.load, asked.capacity_seconds)


# An open loop below the capacity.


def steady(folder: Path, seconds: float, load: float, capacity_s: float) -> int:
    """The whole run; 1 if a call was lost or something grew."""
    with daemon.running(folder, "--metrics", "127.0.0.1:0") as front:
        daemon.apply(QUICKSTART / "manifest.yaml")
        pids = {"front": front.pid, "worker": driving.worker(folder, MODEL)}
        run = measure(driving.address(folder), pids, seconds, load, capacity_s)
        capacity_rps, tally, samples = asyncio.run(run)
        rows = accounted(driving.metrics(folder))
        is_same = driving.worker(folder, MODEL) == pids["worker"]
    found = growth(samples)
    print(report(capacity_rps, load, tally, rows, samples))
    lost = tally.failed + tally.expired + abs(rows["received"] - rows["ended"])
    grew = [name for name, value in found.items() if value > MOST_GROWTH[name[1]]]
    for process, sign in grew:
        print(f"\nthe {process}'s {sign} grew")
    if lost:
        print(f"\n{lost} calls or rows were lost: {tally.problems}")
    if not is_same:
        print("\nthe worker was replaced")
    return 1 if lost or grew or not is_same else 0


async def measure(
    at: str, pids: dict[str, int], seconds: float, load: float, capacity_s: float
) -> tuple[float, outcome.Tally, list[Sample]]:
    """The capacity, what became of the calls, and what the processes occupied meanwhile."""
    requests = driving.draw(MODEL, ADAPTERS, sentences.SENTENCES, seed=1)
    capacity_rps = await driving.capacity(at, requests, capacity_s)
    plan = generator.Plan(rate=load * capacity_rps, duration_s=seconds, deadline_s=DEADLINE_S)
    samples: list[Sample] = []
    sampling = asyncio.create_task(sample(pids, seconds / SAMPLES, samples))
    try:
        return capacity_rps, await driving.drive(at, plan, requests), samples
    finally:
        sampling.cancel()


async def sample(pids: dict[str, int], every_s: float, samples: list[Sample]) -> None:
    """Looks at the processes again and again."""
    began_s = time.monotonic()
    while True:
        at_s = time.monotonic() - began_s
        for process, pid in pids.items():
            samples.append(Sample(at_s=at_s, process=process, signs=daemon.vital_signs(pid)))
        await asyncio.sleep(every_s)


def growth(samples: Sequence[Sample]) -> dict[tuple[str, str], float]:
    """What the second half of the time added to each sign of each process, by its slope."""
    half_s = samples[-1].at_s / 2
    late = [each for each in samples if each.at_s >= half_s]
    found = {}
    for process in dict.fromkeys(each.process for each in late):
        of_it = [each for each in late if each.process == process]
        times = [each.at_s for each in of_it]
        for sign in MOST_GROWTH:
            values = [float(each.signs[sign]) for each in of_it]
            slope = statistics.linear_regression(times, values).slope if len(times) > 1 else 0.0
            found[process, sign] = slope * half_s
    return found


def accounted(url: str) -> Counter[str]:
    """Rows that the daemon received, and that ended in some way, by its own counters."""
    with urllib.request.urlopen(url) as page:
        families = parser.text_string_to_metric_families(page.read().decode())
    found: Counter[str] = Counter(received=0, ended=0)
    for family in families:
        for each in family.samples:
            if each.name == "bertd_rows_received_total":
                found["received"] += round(each.value)
            elif each.name == "bertd_rows_total":
                found["ended"] += round(each.value)
                found[each.labels["outcome"]] += round(each.value)
    return found


def report(
    capacity_rps: float,
    load: float,
    tally: outcome.Tally,
    rows: Counter[str],
    samples: Sequence[Sample],
) -> str:
    """What happened, as Markdown."""
    told = outcome.summary(tally)
    counts = ", ".join(f"{told[name]} {name}" for name in ("ok", "refused", "expired", "failed"))
    lines = [
        f"{tally.duration_s / 60:g} minutes at {load:g} of {capacity_rps:.0f} calls/s: "
        f"{tally.sent} sent, {counts}; latency {told['latency_ms']} ms, lag {told['lag_ms']} ms",
        "rows: " + ", ".join(f"{count} {name}" for name, count in rows.items()),
        "",
        "| process | | first | half-way | last | growth of the second half |",
        "|---|---|---|---|---|---|",
    ]
    for (process, sign), grown in growth(samples).items():
        values = [each.signs[sign] for each in samples if each.process == process]
        shown = (values[0], values[len(values) // 2], values[-1])
        lines.append(f"| {process} | {sign} | {' | '.join(map(str, shown))} | {grown:+.1f} |")
    return "\n".join(lines)


# Callers, and trouble.


async def endure(folder: Path, seconds: float) -> int:
    """The whole run; 1 if any call failed."""
    counts: Counter[str] = Counter(answered=0, failed=0)
    with daemon.running(folder) as front:
        daemon.apply(QUICKSTART / "manifest.yaml")
        before = daemon.vital_signs(front.pid)
        until = time.monotonic() + seconds
        async with bertd.AsyncClient(str(folder / "admin.sock")) as client:
            await asyncio.gather(
                *(call(client, until, counts, number) for number in range(CALLERS)),
                kill(folder, until, counts),
                replace(folder, until, counts),
            )
        after = daemon.vital_signs(front.pid)
    print(
        f"{seconds / 60:g} minutes, {CALLERS} callers: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    )
    for name, value in before.items():
        print(f"front {name}: {value} -> {after[name]}")
    return 1 if counts["failed"] else 0


async def call(client: bertd.AsyncClient, until: float, counts: Counter[str], number: int) -> None:
    """One caller: a call, its answer, the next call."""
    for turn in itertools.count(number):
        if time.monotonic() > until:
            return
        adapter = ADAPTERS[turn % len(ADAPTERS)]
        text = "what a day this was " * (1 + turn % 7)
        try:
            await client.classify([text], model=MODEL, adapter=adapter)
            counts["answered"] += 1
        except bertd.CallError as error:
            counts["failed"] += 1
            print(f"failed: {error}", file=sys.stderr)


async def kill(folder: Path, until: float, counts: Counter[str]) -> None:
    """Ends the worker now and then."""
    while time.monotonic() + KILL_EVERY_S < until:
        await asyncio.sleep(KILL_EVERY_S)
        with admin.AdminClient(str(folder / "admin.sock")) as owner:
            pid = owner.get("Model", MODEL).status.details.get("workerPid")
        if pid:
            os.kill(int(str(pid)), signal.SIGKILL)
            counts["workers killed"] += 1


async def replace(folder: Path, until: float, counts: Counter[str]) -> None:
    """Declares the same adapter from another file every time."""
    while time.monotonic() + REPLACE_EVERY_S < until:
        await asyncio.sleep(REPLACE_EVERY_S)
        name = ADAPTERS[counts["adapters replaced"] % len(ADAPTERS)]
        source = folder / f"{name}.safetensors"
        shutil.copy(QUICKSTART / "adapters" / source.name, source)
        with admin.AdminClient(str(folder / "admin.sock")) as owner:
            owner.apply(ADAPTER.format(source=source))
        counts["adapters replaced"] += 1


if __name__ == "__main__":
    raise SystemExit(main())
