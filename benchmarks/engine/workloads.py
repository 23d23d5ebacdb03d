"""What is run: batches of the workloads, and how much of each a turn takes."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine import rows

CLS, SEP = 101, 102
FIRST_WORD, VOCAB = 1_000, 30_522
ROWS = 32
Lengths = NDArray[np.int32]
Iteration = list[rows.Rows]  # what is timed as one: a batch, or all batches of a data set


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How the rows of an iteration are drawn, and how many iterations make a turn of a round."""

    lengths: Callable[[np.random.Generator], list[Lengths]]
    rounds: int  # at least, however long they take
    iterations: int = 1
    warm: int = 0  # iterations before those, unmeasured: whoever ran last left cold caches


def _cola32(rng: np.random.Generator) -> list[Lengths]:
    return [rng.choice(cola_lengths(), ROWS, replace=False)]


def _cola_dev(_: np.random.Generator) -> list[Lengths]:
    lengths = cola_lengths()
    return [lengths[start : start + ROWS] for start in range(0, len(lengths), ROWS)]


WORKLOADS = {
    "single16": Workload(
        lengths=lambda _: [np.full(1, 16, np.int32)], rounds=5, iterations=8, warm=2
    ),
    "cola32": Workload(lengths=_cola32, rounds=3, iterations=2, warm=1),
    "mixed32": Workload(
        lengths=lambda rng: [rng.integers(6, 257, ROWS).astype(np.int32)], rounds=3
    ),
    "uniform16x128": Workload(lengths=lambda _: [np.full(16, 128, np.int32)], rounds=3),
    "cola-dev": Workload(lengths=_cola_dev, rounds=1),
}


@functools.cache
def cola_lengths() -> Lengths:
    """Tokens of each sentence of CoLA's development set, in its order, [CLS] and [SEP] included.

    Counted with the tokenizer of bert-base-uncased over the 527 + 516 sentences of
    `in_domain_dev.tsv` and `out_of_domain_dev.tsv` (github.com/nyu-mll/CoLA-baselines, dd095d3).
    """
    place = Path(__file__).with_name("cola_dev_lengths.json")
    return np.array(json.loads(place.read_text()), np.int32)


def draw(name: str, rng: np.random.Generator) -> Iteration:
    """One fresh iteration of a workload."""
    return [_fill(rng, lengths_B) for lengths_B in WORKLOADS[name].lengths(rng)]


def _fill(rng: np.random.Generator, lengths_B: Lengths) -> rows.Rows:
    ids_T = rng.integers(FIRST_WORD, VOCAB, int(lengths_B.sum())).astype(np.int32)
    ends = np.cumsum(lengths_B)
    ids_T[ends - lengths_B], ids_T[ends - 1] = CLS, SEP
    return rows.Rows(lengths_B=lengths_B.astype(np.int32), ids_T=ids_T)
