"""`python -m bertd.engine --control FD --lanes FD,FD`: started by the front, never by hand."""

import argparse
import logging
import os
import socket
import sys

from bertd import processes
from bertd.engine import worker

# Lanes take every core for as long as a batch lasts; the front needs one for microseconds, at once.
# Nicer by 1 alone they starve a front that is offered more than it can read, and answers come late
# that were computed in time (`benchmarks/serving`, MiniLM at twice its peak).
NICE = 10


def main() -> int:
    """Serves one revision until the front closes the control socket or dies."""
    options = _options()
    processes.die_with(options.parent)
    os.nice(NICE)  # before torch starts threads, which inherit it
    logging.basicConfig(level=logging.INFO, format="worker %(process)d: %(message)s")
    lanes = [socket.socket(fileno=int(fd)) for fd in options.lanes.split(",")]
    worker.Worker(socket.socket(fileno=options.control), lanes).serve()
    sys.stderr.flush()
    os._exit(0)  # lanes may be inside a batch that nobody waits for any more


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bertd.engine")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--lanes", required=True)
    parser.add_argument("--parent", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
