"""CTranslate2's BERT encoder at its best: all threads on a batch, or a worker for each of them.

It pads a batch to its longest row, so neighbours in length may run together, group by group.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np

from benchmarks.engine import names, opened, rows

TYPES = {"int8": "int8", "fp32": "float32"}
GROUPS = (16, 8, 4)  # rows of a sub-batch


def prepare(folder: Path) -> None:
    """Writes `ctranslate2/fp32` and `ctranslate2/int8` beside the checkpoint."""
    for precision, kind in TYPES.items():
        converter = ctranslate2.converters.TransformersConverter(str(folder / "checkpoint"))
        converter.convert(str(folder / "ctranslate2" / precision), quantization=kind)


def open_engine(name: names.Name, folder: Path, threads: int) -> opened.Opened:
    """Opens the model twice: CTranslate2 fixes threads when it loads."""
    place = str(folder / "ctranslate2" / name.precision)
    kind = TYPES[name.precision]
    whole = ctranslate2.Encoder(place, compute_type=kind, intra_threads=threads)
    lanes = ctranslate2.Encoder(place, compute_type=kind, intra_threads=1, inter_threads=threads)
    pool = ThreadPoolExecutor(threads)
    run = functools.partial(_forward, whole)
    variants: dict[str, Any] = {"padded": run}
    sizes = {}
    for size in GROUPS:
        alone, spread = f"sorted by {size}", f"a worker per thread, sorted by {size}"
        variants[alone] = functools.partial(rows.in_groups, run, size=size)
        variants[spread] = functools.partial(_spread, lanes, pool, size=size)
        sizes |= {alone: size, spread: size}
    versions = {"ctranslate2": ctranslate2.__version__}
    return opened.Opened(variants=variants, versions=versions, sizes=sizes)


def _spread(
    encoder: ctranslate2.Encoder, pool: ThreadPoolExecutor, batch: rows.Rows, size: int
) -> rows.Floats:
    """Sub-batches side by side, the longest first: who is done takes the next one."""
    groups = rows.by_length(batch, size)
    found = pool.map(lambda group: _forward(encoder, batch.pick(group)), groups)
    return rows.merge(len(batch.lengths_B), groups, list(found))


def _forward(encoder: ctranslate2.Encoder, batch: rows.Rows) -> rows.Floats:
    ends = np.cumsum(batch.lengths_B)[:-1]
    ids = [each.tolist() for each in np.split(batch.ids_T, ends)]
    hidden_BSD = np.asarray(encoder.forward_batch(ids).last_hidden_state)
    kept_BS = np.arange(hidden_BSD.shape[1]) < batch.lengths_B[:, None]
    sums_BD = np.matmul(kept_BS[:, None].astype(np.float32), hidden_BSD)[:, 0]
    return sums_BD / batch.lengths_B[:, None].astype(np.float32)
