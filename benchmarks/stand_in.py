"""A worker that computes nothing: the front as if its engine took no time, or so much a row.

`python -m benchmarks.stand_in` takes what `python -m bertd.engine` takes and speaks the same
frames. Every row is answered with the same logits, as many as its adapter has labels.
"""

import argparse
import os
import shlex
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertd import frames
from bertd.checkpoint import adapter_file

CORE = "BERTD_BENCH_WORKER_CORE"
RATE = "BERTD_BENCH_ROWS_PER_SECOND"  # 0: at once
DIMENSIONS = 384


class Worker:
    """Answers control messages, and batches in a thread for each lane."""

    def __init__(self, rows_per_s: float) -> None:
        self._seconds_per_row = 1 / rows_per_s if rows_per_s else 0.0
        self._logits: dict[int, NDArray[np.float32]] = {}

    def serve(self, control: socket.socket) -> None:
        """Until the front closes the socket."""
        with control.makefile("rb") as stream:
            while head := stream.read(frames.HEADER.size):
                header = frames.decode_header(head)
                message = frames.decode_control(memoryview(stream.read(header.body_bytes)))
                answer = {"ok": self._answer(message)}
                control.sendall(frames.encode_control(header.id, answer))

    def run_lane(self, lane: socket.socket) -> None:
        """Answers batches one after the other."""
        with lane.makefile("rb") as stream:
            while head := stream.read(frames.HEADER.size):
                header = frames.decode_header(head)
                body = memoryview(stream.read(header.body_bytes))
                lane.sendall(self._run(frames.decode_batch(header, body)))

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["op"] == "start":
            return {
                "slotBytes": 1,
                "device": "cpu",
                "precision": "int8",
                "kernels": "none",
                "foldedKey": "",
                "parameters": 0,
                "baseBytes": 0,
            }
        loaded = message.get("adapters", [])
        for fields in loaded:
            labels = len(adapter_file.read_info(Path(fields["path"])).label_names)
            self._logits[fields["slot"]] = np.linspace(-2, 2, labels, dtype=np.float32)
        return {"failed": {}, "headBytes": {str(fields["slot"]): 0 for fields in loaded}}

    def _run(self, batch: frames.Batch) -> bytes:
        seconds = self._seconds_per_row * len(batch.slots_B)
        if seconds:
            time.sleep(seconds)
        vector_D = np.zeros(DIMENSIONS, np.float32)
        vectors = [
            vector_D if task == frames.Task.EMBED else self._logits[slot]
            for slot, task in zip(batch.slots_B.tolist(), batch.tasks_B.tolist(), strict=True)
        ]
        result = frames.Result(id=batch.id, seconds=max(seconds, 1e-6), vectors=vectors)
        return frames.encode_result(result)


def main() -> int:
    """Serves one revision until the front closes the control socket, or is the front."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", metavar="FOLDER", type=Path, help="be a daemon of stand-ins")
    parser.add_argument("--control", type=int)
    parser.add_argument("--lanes")
    parser.add_argument("--parent", type=int)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    os.sched_setaffinity(0, {int(os.environ[CORE])})
    worker = Worker(float(os.environ.get(RATE, "0")))
    for fd in options.lanes.split(","):
        lane = socket.socket(fileno=int(fd))
        threading.Thread(target=worker.run_lane, args=(lane,), daemon=True).start()
    worker.serve(socket.socket(fileno=options.control))
    return 0


def serve(folder: Path) -> int:
    """`bertd serve`, except that the interpreter it starts workers with is the stand-in's."""
    from bertd.cli import main as cli  # noqa: PLC0415  # the worker needs none of it

    folder.chmod(0o700)
    script = folder / "python"
    command = shlex.join([sys.executable, "-m", "benchmarks.stand_in"])
    script.write_text(f'#!/bin/sh\nshift 2\nexec {command} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    sys.executable = str(script)
    sys.argv = ["bertd", "serve", "--state-dir", str(folder / "state")]
    sys.argv += ["--listen", "127.0.0.1:0", "--admin", str(folder / "admin.sock")]
    sys.argv += ["--metrics", "", "--lanes", "1"]
    return cli.run() or 0


if __name__ == "__main__":
    raise SystemExit(main())
