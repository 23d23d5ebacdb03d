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
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import bertd
from bertd.client import admin

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
BERTD = Path(sys.executable).with_name("bertd")
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
    async with daemon(folder) as front:
        before = vital_signs(front.pid)
        until = time.monotonic() + seconds
        async with bertd.AsyncClient(str(folder / "admin.sock")) as client:
            await asyncio.gather(
                *(call(client, until, counts, number) for number in range(CALLERS)),
                kill(folder, until, counts),
                replace(folder, until, counts),
            )
        after = vital_signs(front.pid)
    print(
        f"{seconds / 60:g} minutes, {CALLERS} callers: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    )
    for name, value in before.items():
        print(f"front {name}: {value} -> {after[name]}")
    return 1 if counts["failed"] else 0


@asynccontextmanager
async def daemon(folder: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A daemon that serves the quick start."""
    folder.chmod(0o700)
    os.environ["BERTD_SERVER"] = str(folder / "admin.sock")
    with (folder / "log").open("w") as log:
        command = [str(BERTD), "serve", "--state-dir", str(folder / "state")]
        command += ["--listen", "127.0.0.1:0", "--metrics", ""]
        front = subprocess.Popen(command, stderr=log)
    try:
        while not re.search("listening", (folder / "log").read_text()):
            await asyncio.sleep(0.1)
        apply = [str(BERTD), "apply", str(QUICKSTART / "manifest.yaml"), "--wait"]
        subprocess.run(apply, check=True)
        yield front
    finally:
        front.send_signal(signal.SIGTERM)
        front.wait(60)


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


def vital_signs(pid: int) -> dict[str, int]:
    """Resident memory, threads and descriptors of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    return {
        "resident KiB": int(found["VmRSS"]),
        "threads": int(found["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


if __name__ == "__main__":
    raise SystemExit(main())
