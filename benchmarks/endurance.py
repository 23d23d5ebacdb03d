"""Load, killed workers and replaced adapters for as long as one likes: no call may fail.

`make endurance`, or `python -m benchmarks.endurance --minutes 10`. Starts its own daemon with the
quick start's manifest, keeps 16 callers busy on all adapters, kills the worker every 10 s, replaces
an adapter every second, and prints what was lost and how the front's memory, threads and
descriptors developed. Exits with 1 if any call failed.
"""

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import bertd
from benchmarks import daemon
from bertd.client import admin

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
CALLERS = 16
KILL_EVERY_S = 10.0
REPLACE_EVERY_S = 1.0
ADAPTERS = ("sst2", "trec", "snips", "cola")
ADAPTER = """
apiVersion: bertd.dev/v1
kind: Adapter
metadata: {{name: changing}}
spec: {{model: quickstart, source: {source}}}
"""


def main() -> int:
    """Runs the load and prints the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bertd-endurance-") as folder:
        return asyncio.run(endure(Path(folder), options.minutes * 60))


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
            await client.classify([text], model="quickstart", adapter=adapter)
            counts["answered"] += 1
        except bertd.CallError as error:
            counts["failed"] += 1
            print(f"failed: {error}", file=sys.stderr)


async def kill(folder: Path, until: float, counts: Counter[str]) -> None:
    """Ends the worker now and then."""
    while time.monotonic() + KILL_EVERY_S < until:
        await asyncio.sleep(KILL_EVERY_S)
        with admin.AdminClient(str(folder / "admin.sock")) as owner:
            pid = owner.get("Model", "quickstart").status.details.get("workerPid")
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
