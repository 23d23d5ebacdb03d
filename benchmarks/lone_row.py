"""A lone row while another process is busy: does its tail stay near its median?

`python -m benchmarks.lone_row --precision int8`. Runs one row of 16 tokens at a time, as a worker
runs it (on all cores together), in turns with and without processes that compute without pause, as
many as there are cores. A team of spinning OpenMP
threads turns 6 ms into a second here. The bar: p99 beside the busy process <= 5x the p50 there.

A busy process takes its share of the cores away: times rise, and how evenly is what counts.
"""

import argparse
import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from benchmarks.engine import shapes
from bertd import cores, families
from bertd.engine import peak
from bertd.kernels import native, stack
from bertd.model import encoder, packing

TURNS = 5
WARM_UP_ROWS = 20
BAR = 5.0
BUSY = "while True: sum(range(100_000))"


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Milliseconds of all rows of one kind."""

    name: str
    milliseconds: list[float]

    def at(self, percent: float) -> float:
        """A percentile."""
        return float(np.percentile(self.milliseconds, percent))

    def line(self) -> str:
        """A row of the table."""
        p50, p99 = self.at(50), self.at(99)
        count = len(self.milliseconds)
        return (
            f"| {self.name} | {count} | {p50:.2f} | {p99:.2f} | {max(self.milliseconds):.2f} "
            f"| {p99 / p50:.1f} |"
        )


def main() -> int:
    """Prints the table; 1 where the bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=shapes.SHAPES, default="bert-base")
    parser.add_argument("--precision", choices=encoder.PRECISIONS, default="int8")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--threads", type=int, default=cores.usable())
    options = parser.parse_args()
    peak.alone()
    engine = Engine(options.model, options.precision)
    batch = engine.batch([options.tokens])

    def run() -> object:
        return engine.run(batch, options.threads)

    for _ in range(WARM_UP_ROWS):
        run()
    quiet, busy = Found("alone", []), Found("beside a busy process", [])
    for _ in range(TURNS):
        quiet.milliseconds.extend(timed(run, options.seconds))
        with other(cores.usable()):
            busy.milliseconds.extend(timed(run, options.seconds))
    print(
        f"{options.model} {options.precision}, {options.tokens} tokens, {options.threads} threads"
    )
    print("| | rows | p50 ms | p99 ms | max ms | p99 / p50 |\n|---|---|---|---|---|---|")
    print(quiet.line(), busy.line(), sep="\n")
    return int(busy.at(99) > BAR * busy.at(50))


class Engine:
    """An encoder of made-up weights, and batches for it."""

    def __init__(self, model: str, precision: str) -> None:
        sizes = shapes.SHAPES[model]
        shape = families.shape(
            {
                "model_type": "bert",
                "architectures": ["BertModel"],
                "hidden_size": sizes.hidden,
                "num_hidden_layers": sizes.layers,
                "num_attention_heads": sizes.heads,
                "intermediate_size": sizes.ffn,
                "vocab_size": 1000,
                "max_position_embeddings": 512,
                "type_vocab_size": 2,
                "hidden_act": "gelu",
            }
        )
        generator = torch.Generator().manual_seed(0)
        weights = {
            name: torch.randn(size, generator=generator) * 0.02
            for name, size in families.tensor_shapes(shape).items()
        }
        self._encoder = encoder.Encoder(shape, weights, precision, native.open_library())
        self.kernels = self._encoder.kernels
        dtype = self._encoder.bias_dtype
        self._rows_SLW = torch.zeros(1, shape.layers, stack.row_width(shape), dtype=dtype)
        self._tail_SD = torch.zeros(1, shape.hidden, dtype=dtype)

    def batch(self, lengths: Sequence[int]) -> packing.PackedBatch:
        """Rows of these lengths."""
        ids_T = np.arange(sum(lengths), dtype=np.int32) % 1000
        return packing.pack(
            ids_T=ids_T,
            types_T=np.zeros(len(ids_T), np.uint8),
            lengths_B=np.array(lengths, np.int32),
            slots_B=np.zeros(len(lengths), np.int32),
            position_offset=0,
        )

    @torch.inference_mode()
    def run(self, batch: packing.PackedBatch, threads: int) -> object:
        """One forward."""
        return self._encoder.forward(batch, self._rows_SLW, self._tail_SD, threads)


def timed(run: Callable[[], object], seconds: float) -> Iterator[float]:
    """Milliseconds of each row for so long."""
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        run()
        yield (time.perf_counter() - began) * 1e3


@contextlib.contextmanager
def other(threads: int) -> Iterator[None]:
    """Processes that keep so many cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(threads)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
