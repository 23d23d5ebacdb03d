"""A server's processes: on one core, ended together, stopped while others serve."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.engine import machine
from benchmarks.engine.turns import Failed

GOODBYE_S = 20.0
STOP_S = 5.0
POLL_S = 0.01
RISE_S = 0.5
# Whatever counts cores by itself would count all of the machine's.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
ALONE = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}


class Tree:
    """A process and all that descend from it."""

    def __init__(self, root: int) -> None:
        self.root = root

    def pids(self) -> list[int]:
        """All of them, the root first."""
        children: dict[int, list[int]] = {}
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (place / "stat").read_text().rpartition(")")[2].split()
                    children.setdefault(int(fields[1]), []).append(int(place.name))
        found = [self.root]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_seconds(self) -> tuple[float, float]:
        """Processor time that the root has used, and that all together have.

        Raises:
            Failed: the root is gone.
        """
        used = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                used.append((pid, machine.cpu_seconds(pid)))
        if not used or used[0][0] != self.root:
            raise Failed("its process is gone")
        return used[0][1], sum(seconds for _, seconds in used)

    def resident_bytes(self) -> int:
        """What all together occupy, shared pages counted each time."""
        found = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                found += machine.resident_bytes(pid)
        return found

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wake(self) -> None:
        """Lets all run again, the root last: Triton restarts a backend that seems to sleep."""
        root, *others = self.pids()
        for pid in reversed(others):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(RISE_S if others else 0.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(root, signal.SIGCONT)

    def stop(self) -> None:
        """Returns when none of them can run.

        Raises:
            Failed: one of them still does.
        """
        until = time.monotonic() + STOP_S
        while time.monotonic() < until:
            self.send(signal.SIGSTOP)
            with contextlib.suppress(OSError):
                if all(machine.state(pid) in "TZ" for pid in self.pids()):
                    return
            time.sleep(POLL_S)
        raise Failed("it does not stop")


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started meanwhile has this core alone, and so have its own children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    command: Sequence[str], variables: Mapping[str, str], core: int, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A server of somebody else, on a core; its log and whatever it leaves lie in `folder`."""
    folder.mkdir(parents=True)
    given = {"TMPDIR": str(folder.absolute()), "PYTHONPATH": str(Path.cwd())}
    with (folder / "log").open("wb") as log, on_core(core):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | ONE_THREAD | ALONE | given | dict(variables),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)
        for place in folder.iterdir():
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a server and all of its processes to end, then makes them."""
    tree = Tree(process.pid)
    descendants = tree.pids()
    tree.send(signal.SIGCONT)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    until = time.monotonic() + STOP_S
    for pid in descendants[1:]:
        with contextlib.suppress(OSError):
            while machine.state(pid) != "Z" and time.monotonic() < until:
                os.kill(pid, signal.SIGKILL)
                time.sleep(POLL_S)


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
