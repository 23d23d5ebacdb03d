"""ONNX Runtime on the fused graph: a padded batch, or groups of like length.

Its threads spin between operators, which is its default and what is fastest for it: nobody else
runs meanwhile.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.engine import names, opened, rows

GROUPS = (16, 8, 4)  # rows of a sub-batch
DTYPES = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


def open_engine(name: names.Name, folder: Path, threads: int) -> opened.Opened:
    """Opens the graph of a precision."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    place = folder / "onnx" / f"{name.precision}.onnx"
    session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
    wanted = [(each.name, DTYPES[each.type]) for each in session.get_inputs()]
    places = ["input_ids", "attention_mask"]

    def run(batch: rows.Rows) -> rows.Floats:
        padded = dict(zip(places, rows.pad(batch), strict=True))
        feeds = {key: padded[key].astype(dtype, copy=False) for key, dtype in wanted}
        return session.run(None, feeds)[0]

    versions = {"onnxruntime": onnxruntime.__version__}
    variants: dict[str, Any] = {"padded": run}
    sizes = {f"sorted by {size}": size for size in GROUPS}
    for variant, size in sizes.items():
        variants[variant] = functools.partial(rows.in_groups, run, size=size)
    return opened.Opened(variants=variants, versions=versions, sizes=sizes)
