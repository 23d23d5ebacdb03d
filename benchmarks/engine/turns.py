"""One contender: the process of an engine, stopped but for its turns."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from benchmarks.engine import machine, rows, workloads

OPEN_S = 300.0
TURN_S = 600.0
GOODBYE_S = 5.0
# Libraries count cores by themselves; these bind the ones that read the environment.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# numpy only pads and pools, and a pool of its own would spin beside the engine's threads.
NO_POOL = {"OPENBLAS_NUM_THREADS": "1"}


class Failed(Exception):
    """An engine cannot run here; the text says why."""


class Contender:
    """Starts an engine's process, gives it turns, and knows what it used between them.

    Args:
        engine: its name.
        python: the interpreter of its environment.
        folder: what was prepared of the model.
        threads: how many it may use.

    Raises:
        Failed: the engine does not open.
    """

    def __init__(self, engine: str, python: Path, folder: Path, threads: int) -> None:
        self.engine = engine
        self.idle_cpu_s = 0.0
        here, there = Pipe()
        self._pipe: Connection = here
        command = [
            python,
            "-m",
            "benchmarks.engine.worker",
            engine,
            folder,
            threads,
            there.fileno(),
        ]
        self._process = subprocess.Popen(
            [str(part) for part in command],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | NO_POOL,
        )
        there.close()
        try:
            hello = self._answer(OPEN_S)
        except Failed:
            self.close()
            raise
        self.versions: dict[str, str] = hello["versions"]
        self.variants: dict[str, int] = hello["variants"]
        self._stop()

    def time(
        self, variant: str, iterations: Sequence[workloads.Iteration], warm: int = 0
    ) -> list[float]:
        """Seconds of each iteration, without the first `warm`.

        Raises:
            Failed: the engine failed.
        """
        found = self._turn(variant=variant, iterations=iterations, warm=warm, answers=False)
        return found["seconds"]

    def answers(self, variant: str, iteration: workloads.Iteration) -> rows.Floats:
        """Embeddings of all rows of an iteration.

        Raises:
            Failed: the engine failed.
        """
        found = self._turn(variant=variant, iterations=[iteration], warm=0, answers=True)
        return found["answers"]

    @property
    def is_stopped(self) -> bool:
        """Whether none of its threads can run now."""
        return machine.state(self._process.pid) == "T"

    @property
    def resident_bytes(self) -> int:
        """What it occupies in memory."""
        return machine.resident_bytes(self._process.pid)

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _turn(self, **order: Any) -> dict[str, Any]:
        try:
            self.idle_cpu_s += machine.cpu_seconds(self._process.pid) - self._used
            self._process.send_signal(signal.SIGCONT)
            self._pipe.send(order)
            return self._answer(TURN_S)
        except OSError as failure:
            raise Failed(f"its process is gone: {failure}") from None
        finally:
            with contextlib.suppress(OSError):
                self._stop()

    def _stop(self) -> None:
        """No thread of it spins from here on: a library's pool may, for a while, if it is let."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._used = machine.cpu_seconds(self._process.pid)

    def _answer(self, patience_s: float) -> dict[str, Any]:
        try:
            if not self._pipe.poll(patience_s):
                raise Failed(f"no answer within {patience_s:.0f} s")
            found: dict[str, Any] = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            raise Failed(f"its process ended with {code}") from None
        if "error" in found:
            raise Failed(found["error"].strip().splitlines()[-1])
        return found
