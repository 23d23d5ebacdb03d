"""`python -m bertd.edge --owner FD --parent PID --options JSON`: started by the front alone."""

import argparse
import socket
import sys

import uvloop

from bertd import logs, processes
from bertd.edge import program
from bertd.runtime import edges


def main() -> int:
    """Serves until the front says stop or dies."""
    parser = argparse.ArgumentParser(prog="python -m bertd.edge")
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--options", required=True)
    options = parser.parse_args()
    processes.die_with(options.parent)
    told = edges.options_from(options.options)
    logs.configure(told.log_format)
    processes.collect_seldom()
    uvloop.run(_run(told, socket.socket(fileno=options.owner)))
    sys.stderr.flush()
    return 0


async def _run(told: edges.Options, ours: socket.socket) -> None:
    await program.Program(told).run(ours)


if __name__ == "__main__":
    raise SystemExit(main())
