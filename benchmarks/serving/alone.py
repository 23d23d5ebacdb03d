"""bertd's engine without a server, on the servers' core: what serving is measured against."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.engine import rows, turns, workloads
from benchmarks.serving import loads, processes

ENGINE = "bertd-int8-1-adapters"
BATCHES = {"closed-1": 1, "closed-64": workloads.ROWS, "closed-8x16": workloads.ROWS}  # rows of one


class Engine:
    """The engine's process on a model, and the rows that it runs: no text, no tokenising.

    Args:
        contender: the process.
        texts: rows of the texts that servers are asked about.
    """

    def __init__(self, contender: turns.Contender, texts: rows.Rows) -> None:
        self.versions = contender.versions
        self._contender, self._texts = contender, texts
        self._variant = next(iter(contender.variants))
        self._next = 0
        self._once_s = {size: self._seconds(size, 3)[-1] for size in set(BATCHES.values())}

    def figures(self, load: str, seconds: float) -> loads.Figures:
        """What it reaches in about so many seconds, in batches that suit a load."""
        size = BATCHES[load]
        found = np.array(self._seconds(size, max(3, round(seconds / self._once_s[size]))))
        return {"texts_per_s": size / float(found.mean()), **loads.latencies("", found)}

    def _seconds(self, size: int, batches: int) -> list[float]:
        iterations = []
        for _ in range(batches + 1):
            count = len(self._texts.lengths_B)
            places = [(self._next + place) % count for place in range(size)]
            self._next = (self._next + size) % count
            iterations.append([self._texts.pick(places)])
        return self._contender.time(self._variant, iterations, warm=1)


@contextlib.contextmanager
def started(folder: Path, texts: rows.Rows, core: int) -> Iterator[Engine]:
    """The engine on the checkpoint within `folder`, on one core.

    Raises:
        Failed: it does not open.
    """
    with processes.on_core(core):
        contender = turns.Contender(ENGINE, Path(sys.executable), folder, 1)
    try:
        yield Engine(contender, texts)
    finally:
        contender.close()
