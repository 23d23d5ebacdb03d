"""bertd: its engine in one's own process, a batch shared among lanes as the daemon shares it.

How many lanes and threads a batch gets is `bertd.batching.sharing`'s decision, the daemon's own.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.adapters import pool
from benchmarks.engine import names, opened, rows
from bertd import frames
from bertd.batching import policy, sharing
from bertd.engine import peak, runner, session

LIMITS = policy.Limits(max_tokens=1 << 20, max_rows=1 << 20)


def open_engine(name: names.Name, folder: Path, threads: int) -> opened.Opened:
    """Opens the checkpoint with random adapters in its table, or none."""
    peak.alone()
    base = session.Session.open(str(folder / "checkpoint"), precision=name.precision)
    slots = np.zeros(1, np.int32)
    if name.adapters:
        slots = np.array(pool.fill(base, name.adapters)[0], np.int32)
    lanes = ThreadPoolExecutor(threads, initializer=peak.alone)
    engine = base.base.runner

    def split(batch: rows.Rows) -> rows.Floats:
        return run_rows(engine, lanes, threads, batch, _slots(slots, batch))

    versions = {"torch": torch.__version__, f"kernels ({name.precision})": _kernels(engine)}
    return opened.Opened(variants={f"{threads} lanes": split}, versions=versions)


def run_rows(
    engine: runner.Runner,
    lanes: ThreadPoolExecutor,
    threads: int,
    batch: rows.Rows,
    slots_B: Sequence[int],
) -> rows.Floats:
    """Embeddings [B, D]: what is worth it is dealt to several lanes, a lone row to all threads."""
    share = sharing.share(
        rows=len(batch.lengths_B),
        tokens=batch.tokens,
        longest=int(batch.lengths_B.max()),
        limits=LIMITS,
        lanes=threads,
        spare=threads,
    )
    hands = rows.deal(batch.lengths_B, math.ceil(batch.tokens / share.tokens))
    own, *others = hands
    waiting = [
        lanes.submit(_lane, engine, batch.pick(hand), [slots_B[i] for i in hand], share.threads)
        for hand in others
    ]
    found = [_lane(engine, batch.pick(own), [slots_B[i] for i in own], share.threads)]
    return rows.merge(len(batch.lengths_B), hands, [*found, *(each.result() for each in waiting)])


def _lane(
    engine: runner.Runner, batch: rows.Rows, slots_B: Sequence[int], threads: int
) -> rows.Floats:
    made = frames.Batch(
        id=0,
        lengths_B=batch.lengths_B,
        slots_B=np.array(slots_B, np.int32),
        tasks_B=np.full(len(batch.lengths_B), frames.Task.EMBED, np.int32),
        ids_T=batch.ids_T,
        types_T=np.zeros(batch.tokens, np.uint8),
        threads=threads,
    )
    return np.concatenate(engine.run(made).vectors)


def _slots(slots: rows.Ints, batch: rows.Rows) -> list[int]:
    """Another slot for every row; which, the batch decides, so that every precision agrees."""
    first = int(batch.ids_T.sum()) % len(slots)
    return np.resize(np.roll(slots, -first), len(batch.lengths_B)).tolist()


def _kernels(engine: runner.Runner) -> str:
    encoder = engine.encoder
    return f"{encoder.kernels} ({encoder.reason})" if encoder.reason else str(encoder.kernels)
