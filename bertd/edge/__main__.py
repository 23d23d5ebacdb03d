"""`python -m bertd.edge --owner FD --parent PID --options JSON`: started by the front alone."""

import argparse
import ctypes
import gc
import os
import signal
import socket
import sys

import uvloop

from bertd import logs
from bertd.edge import program
from bertd.runtime import edges

PR_SET_PDEATHSIG = 1
COLLECTOR_THRESHOLDS = (10_000, 10, 1_000)  # as in the front: routes are many, and stay


def main() -> int:
    """Serves until the front says stop or dies."""
    parser = argparse.ArgumentParser(prog="python -m bertd.edge")
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--options", required=True)
    options = parser.parse_args()
    _die_with(options.parent)
    told = edges.options_from(options.options)
    logs.configure(told.log_format)
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    uvloop.run(_run(told, socket.socket(fileno=options.owner)))
    sys.stderr.flush()
    return 0


async def _run(told: edges.Options, ours: socket.socket) -> None:
    await program.Program(told).run(ours)


def _die_with(parent: int) -> None:
    """Asks the kernel to end this process with the front, and ends it if the front has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd signal whole groups
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
