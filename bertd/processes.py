"""What the processes of a daemon have in common: they end with the front, and collect seldom."""

import ctypes
import gc
import os
import signal

PR_SET_PDEATHSIG = 1
# Thousands of adapters are a million objects that stay: with Python's own thresholds every resync
# would look at all of them several times, and no call is answered for that second.
COLLECTOR_THRESHOLDS = (10_000, 10, 1_000)


def die_with(parent: int) -> None:
    """Asks the kernel to end this process with the front, and ends it if the front has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd signal whole groups
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def collect_seldom() -> None:
    """Garbage is looked for seldom from now on, for a process that keeps many objects."""
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
