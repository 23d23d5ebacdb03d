"""Few rows on two lanes: side by side, together on all threads, or on one?

`python -m benchmarks.lanes --precision int8`. What `LEAST_SHARE_TOKENS` of `bertd/batching` rests
on: the least tokens of a part from which splitting rows over lanes is as fast as one wide batch.
The three ways take turns; the figure is the median of a quiet machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent import futures

from benchmarks import lone_row
from benchmarks.engine import shapes
from bertd.engine import peak
from bertd.model import encoder

LANES = 2
# Rows and the tokens of each.
BATCHES = ((1, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 16), (8, 16), (16, 16), (2, 64), (2, 128))
LONE = ((1, 64), (1, 128), (1, 512))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=shapes.SHAPES, default="bert-base")
    parser.add_argument("--precision", choices=encoder.PRECISIONS, default="int8")
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    peak.alone()
    engine = lone_row.Engine(options.model, options.precision)
    print(f"{options.model} {options.precision}, {engine.kernels}; milliseconds, median (best)")
    print("| rows x tokens | one thread | wide, 2 threads | split over 2 lanes |")
    print("|---|---|---|---|")
    with futures.ThreadPoolExecutor(LANES, initializer=peak.alone) as lanes:
        for rows, tokens in (*BATCHES, *LONE):
            found = compare(ways(engine, lanes, rows, tokens), options.turns)
            cells = [f"{statistics.median(each):.2f} ({min(each):.2f})" for each in found]
            cells += ["-"] * (3 - len(cells))
            print(f"| {rows} x {tokens} | {' | '.join(cells)} |", flush=True)


def ways(
    engine: lone_row.Engine, lanes: futures.ThreadPoolExecutor, rows: int, tokens: int
) -> list[Callable[[], object]]:
    """One thread, one wide batch, and, of several rows, two batches side by side."""
    whole = engine.batch([tokens] * rows)
    found: list[Callable[[], object]] = [
        lambda: engine.run(whole, 1),
        lambda: engine.run(whole, LANES),
    ]
    if rows > 1:
        part = engine.batch([tokens] * (rows // LANES))
        found.append(lambda: list(lanes.map(lambda _: engine.run(part, 1), range(LANES))))
    return found


def compare(ways: list[Callable[[], object]], turns: int) -> list[list[float]]:
    """Milliseconds of each way, in turns, the first of which does not count."""
    found: list[list[float]] = [[] for _ in ways]
    for turn in range(turns + 1):
        for way, times in zip(ways, found, strict=True):
            began = time.perf_counter()
            way()
            if turn:
                times.append((time.perf_counter() - began) * 1e3)
    return found


if __name__ == "__main__":
    main()
