"""Many adapters in one table, and what they occupy there."""

import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertd import families
from bertd.checkpoint import adapter_file
from bertd.engine import session

LABELS = 3
GROUP = session.FOLD_ADAPTERS
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What loading `adapters` adapters cost, each."""

    adapters: int
    resident_bytes: float
    table_bytes: int
    head_bytes: int
    fold_ms: float


def fill(opened: session.Session, count: int) -> tuple[list[int], Memory]:
    """Loads `count` random adapters that offset every bias; returns their slots."""
    adapters = random_adapters(opened, count)
    first = list(itertools.islice(adapters, GROUP))  # its room for folding is every group's
    slots = opened.load_adapters(first)
    del first
    before, folding_s = resident_bytes(), 0.0
    while len(slots) < count:
        group = [next(adapters) for _ in range(min(GROUP, count - len(slots)))]
        began = time.perf_counter()
        slots += opened.load_adapters(group)
        folding_s += time.perf_counter() - began
        del group
    bank = opened.base.runner.bank
    head = bank[slots[0]].head
    assert head is not None
    each = max(1, count - GROUP)
    memory = Memory(
        adapters=count,
        resident_bytes=(resident_bytes() - before) / each,
        table_bytes=bank.table.slot_bytes,
        head_bytes=head.out.weight.nbytes + head.out.bias.nbytes,
        fold_ms=1000 * folding_s / each,
    )
    return slots, memory


def random_adapters(opened: session.Session, count: int) -> Iterator[adapter_file.Adapter]:
    """Adapters as reading files gives them, with a linear head of `LABELS` labels on the mean."""
    described = opened.base.description
    shapes = families.tensor_shapes(described.shape)
    names = [n for n in families.bias_names(described.shape) if not n.startswith("pooler.")]
    rng = np.random.default_rng(1)
    info = adapter_file.AdapterInfo(
        base_digest=described.digest,
        tokenizer_digest=described.tokenizer_digest,
        head=adapter_file.Head(kind="linear", input="mean", problem="single_label"),
        label_names=tuple(f"label{n}" for n in range(LABELS)),
        temperature=1.0,
        thresholds={},
        training={},
        digest="",
        file_bytes=0,
    )
    for _ in range(count):
        yield adapter_file.Adapter(
            info=info,
            offsets={n: rng.standard_normal(shapes[n], np.float32) * 0.01 for n in names},
            head={
                "out.weight": rng.standard_normal((LABELS, described.shape.hidden), np.float32),
                "out.bias": np.zeros(LABELS, np.float32),
            },
        )


def resident_bytes() -> int:
    """What this process occupies in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
