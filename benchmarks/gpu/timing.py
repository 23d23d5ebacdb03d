"""Engines on a GPU, the batches that they run, and the time that these take."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.adapters import bases, pool
from bertd import frames
from bertd.engine import session
from bertd.model import cuda

FIRST_ID, LAST_ID = 1000, 29_000
FOLDED = 64  # adapters that are really folded; further slots hold them again
BATCHES = 8  # of one turn, which lanes overlap
LONE_RUNS = 20  # of a lone row in one turn, each timed by itself

RunOne = Callable[[frames.Batch], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Rows of one length, and how many of them one batch has."""

    length: int
    rows: int

    @property
    def name(self) -> str:
        """As in the tables of `benchmarks/engine`."""
        return "single16" if self.rows == 1 else f"uniform{self.rows}x{self.length}"

    @property
    def tokens(self) -> int:
        """Of one batch."""
        return self.length * self.rows

    def draw(self, rng: np.random.Generator, adapters: int) -> frames.Batch:
        """A fresh batch: other words, and for each row any of the first so many adapters."""
        return frames.Batch(
            id=0,
            lengths_B=np.full(self.rows, self.length, np.int32),
            slots_B=rng.integers(1, adapters + 1, self.rows).astype(np.int32),
            tasks_B=np.full(self.rows, frames.Task.CLASSIFY, np.int32),
            ids_T=rng.integers(FIRST_ID, LAST_ID, self.tokens).astype(np.int32),
            types_T=np.zeros(self.tokens, np.uint8),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An engine: how it runs a batch, in how many lanes, and how many adapters rows draw from."""

    run: RunOne
    lanes: int = 1
    adapters: int = 1

    def turn(self, workload: Workload, rng: np.random.Generator) -> list[float]:
        """Seconds of a batch: several for a lone row, else the mean of some that overlap."""
        count = LONE_RUNS if workload.rows == 1 else BATCHES
        batches = [workload.draw(rng, self.adapters) for _ in range(count)]
        if workload.rows == 1:
            return [_seconds(self.run, batch) for batch in batches]
        with futures.ThreadPoolExecutor(self.lanes) as lanes:
            began = time.perf_counter()
            list(lanes.map(self.run, batches))
            return [(time.perf_counter() - began) / count]


def take_turns(
    contenders: Mapping[str, Contender], workload: Workload, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every contender; a first turn of each is not counted."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            taken = contender.turn(workload, rng)
            times[name] += taken if number else []
    return times


def open_bertd(source: str, precision: str, device: str, most_adapters: int) -> session.Session:
    """bertd's engine with its graphs captured and so many adapters in its table.

    Each slot is a row of its own; the values are those of few adapters.
    """
    opened = session.Session.open(source, precision=precision, device=device)
    bank = opened.base.runner.bank
    folded = bank.fold(list(pool.random_adapters(opened, min(FOLDED, most_adapters))))
    for slot in range(1, most_adapters + 1):
        bank.install(slot, folded[slot % len(folded)])
    opened.base.runner.warm_up()
    return opened


def contenders_of(opened: session.Session, adapters: Sequence[int]) -> dict[str, Contender]:
    """One for each number of adapters."""
    base = opened.base
    return {
        f"bertd-{base.precision}-{count}-adapters": Contender(
            run=base.runner.run, lanes=cuda.LANES, adapters=count
        )
        for count in adapters
    }


def open_transformers(source: str, device: str) -> Contender:
    """The same encoder in transformers, in bf16: rows of one length pad nothing.

    What it computes comes back to the host, as it does from bertd.
    """
    model = bases.plain(source, pool.LABELS).to(device, torch.bfloat16)

    @torch.inference_mode()
    def run(batch: frames.Batch) -> object:
        ids = torch.from_numpy(batch.ids_T.reshape(len(batch.lengths_B), -1))
        return model(input_ids=ids.to(device)).logits.float().cpu()

    return Contender(run=run)


def _seconds(run: RunOne, batch: frames.Batch) -> float:
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began
