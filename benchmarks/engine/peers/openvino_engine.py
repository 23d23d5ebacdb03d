"""OpenVINO at its best: both performance hints, a padded batch or groups of like length."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from benchmarks.engine import names, opened, rows

GROUPS = {"int8": (16, 8, 4, 1), "bf16": (8, 1), "fp32": (8, 1)}  # rows of a sub-batch
# OpenVINO would run an fp32 graph in bf16 where the CPU can; for int8 its own choice stands.
HINTS = {"fp32": "f32", "bf16": "bf16"}


def open_engine(name: names.Name, folder: Path, threads: int) -> opened.Opened:
    """Compiles the graph for latency, and for throughput unless it is held to padded batches."""
    core = openvino.Core()
    place = folder / "openvino" / ("int8.xml" if name.precision == "int8" else "fp32.xml")
    options = {"INFERENCE_NUM_THREADS": threads}
    if name.precision in HINTS:
        options["INFERENCE_PRECISION_HINT"] = HINTS[name.precision]

    def compiled(hint: str) -> Any:
        return core.compile_model(place, "CPU", options | {"PERFORMANCE_HINT": hint})

    whole = functools.partial(_infer, compiled("LATENCY").create_infer_request())
    variants: dict[str, Any] = {"latency, padded": whole}
    sizes = {}
    if not name.padded:
        queue = openvino.AsyncInferQueue(compiled("THROUGHPUT"))
        for size in GROUPS[name.precision]:
            latency, throughput = f"latency, sorted by {size}", f"throughput, sorted by {size}"
            variants[latency] = functools.partial(rows.in_groups, whole, size=size)
            variants[throughput] = functools.partial(_queued, queue, size=size)
            sizes |= {latency: size, throughput: size}
    versions = {"openvino": openvino.__version__}
    return opened.Opened(variants=variants, versions=versions, sizes=sizes)


def _infer(request: Any, batch: rows.Rows) -> rows.Floats:
    found = request.infer(_feeds(batch), share_inputs=True)
    return np.array(found[0], np.float32)


def _queued(queue: Any, batch: rows.Rows, size: int) -> rows.Floats:
    """Sub-batches through the asynchronous queue, the longest first."""
    groups = rows.by_length(batch, size)
    found: list[Any] = [None] * len(groups)

    def keep(request: Any, number: int) -> None:
        found[number] = np.array(request.get_output_tensor(0).data, np.float32)

    queue.set_callback(keep)
    for number, group in enumerate(groups):
        queue.start_async(_feeds(batch.pick(group)), number)
    queue.wait_all()
    return rows.merge(len(batch.lengths_B), groups, found)


def _feeds(batch: rows.Rows) -> dict[str, np.ndarray]:
    ids, mask = rows.pad(batch)
    return {"input_ids": ids, "attention_mask": mask}
