"""Permits of every device. The CPU is known; a GPU is known when a worker says that it found one.

Two permits of a GPU keep one batch ready while another one runs.
"""

import time
from collections.abc import Callable

from bertd.runtime import dispatcher

CPU = "cpu"
GPU_PERMITS = 2


class Devices:
    """One dispatcher for each device, shared by all revisions that run there.

    Args:
        cpu: the CPU's.
        clock: monotonic seconds.
    """

    def __init__(
        self, cpu: dispatcher.Dispatcher, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cpu = cpu
        self._clock = clock
        self._gpus: dict[str, dispatcher.Dispatcher] = {}

    def of(self, found: str) -> dispatcher.Dispatcher:
        """That of the device on which a worker says that it runs: `cpu`, `cuda:0`."""
        if found == CPU:
            return self.cpu
        if found not in self._gpus:
            self._gpus[found] = dispatcher.Dispatcher(GPU_PERMITS, self._clock)
        return self._gpus[found]

    def lanes(self, declared: str) -> int:
        """Lanes that a worker needs wherever `auto`, `cpu`, `cuda` or `cuda:1` takes it."""
        return self.cpu.permits if declared == CPU else max(self.cpu.permits, GPU_PERMITS)
