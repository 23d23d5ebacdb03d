"""Load on a daemon of one's own, made by the room behind `bertd bench`, and what to make it of."""

import os
import random
import re
from collections.abc import Callable, Sequence, Set
from pathlib import Path

from bertd.client import admin
from bertd.load import arrivals, calls, generator, outcome, requests
from bertd.load.generator import Observe

# What keeps one lane busy without a queue that anybody would refuse.
CAPACITY_CALLERS = 16
CAPACITY_WARM_UP_S = 1.0
PATIENCE_S = 60.0
Draw = Callable[[], bytes]


class Failed(Exception):
    """A measurement that cannot be made."""


def address(folder: Path) -> str:
    """The data port of the daemon whose log lies in this folder."""
    return _logged(folder, r'"address": "(127[0-9.:]+)"')


def metrics(folder: Path) -> str:
    """Where the daemon of this folder is scraped, if it was started with `--metrics`."""
    return _logged(folder, r"(http://[0-9.:]+/metrics)")


def worker(folder: Path, model: str) -> int:
    """The process id of a Model's worker."""
    with admin.AdminClient(str(folder / "admin.sock")) as owner:
        return int(str(owner.get("Model", model).status.details["workerPid"]))


def pin(process: int, cores: Set[int]) -> None:
    """Keeps all threads of a process to these cores."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def draw(model: str, adapters: Sequence[str], texts: Sequence[str], seed: int) -> Draw:
    """Requests of one text each, of adapters and texts at random."""
    source = random.Random(seed)
    groups = arrivals.groups(texts, 1, source)
    return requests.Requests(model, adapters, groups, source).draw


async def drive(
    at: str, plan: generator.Plan, requests: Draw, observe: Observe | None = None
) -> outcome.Tally:
    """Makes the load of a plan over a connection of its own."""
    async with calls.Calls(at, calls.INFERENCE + "Classify") as wire:
        return await generator.Generator(plan, wire, requests, observe=observe).run()


async def capacity(at: str, requests: Draw, seconds: float) -> float:
    """Answers a second to callers who keep the daemon busy."""
    plan = generator.Plan(
        concurrency=CAPACITY_CALLERS,
        duration_s=seconds,
        warm_up_s=min(CAPACITY_WARM_UP_S, seconds),
        deadline_s=PATIENCE_S,
    )
    tally = await drive(at, plan, requests)
    if not tally.answered or tally.failed:
        raise Failed(f"the capacity cannot be measured: {outcome.summary(tally)}")
    return tally.answered / tally.duration_s


def _logged(folder: Path, pattern: str) -> str:
    log = (folder / "log").read_text()
    if found := re.search(pattern, log):
        return found[1]
    raise Failed(f"nothing like '{pattern}' is in the log:\n{log}")
