"""The process of one engine: opens it, then takes turns when told.

Answers over a pipe of its own, so that nothing a library prints gets in the way. Its parent stops
it between turns.
"""

import gc
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import names, rows, workloads
from benchmarks.engine.opened import Opened

HOMES = {
    "bertd": "benchmarks.engine.own",
    "openvino": "benchmarks.engine.peers.openvino_engine",
    "onnxruntime": "benchmarks.engine.peers.onnxruntime_engine",
    "ctranslate2": "benchmarks.engine.peers.ctranslate2_engine",
    "transformers": "benchmarks.engine.peers.torch_engine",
    "torchao": "benchmarks.engine.peers.torch_engine",
}
Run = Callable[[rows.Rows], rows.Floats]


def main() -> None:
    """Serves turns until the pipe closes."""
    engine, folder, threads, descriptor = sys.argv[1:]
    pipe = Connection(int(descriptor))
    try:
        name = names.parse(engine)
        opened = importlib.import_module(HOMES[name.library]).open_engine(
            name, Path(folder), int(threads)
        )
        pipe.send({"versions": opened.versions, "variants": _sizes(opened)})
    except Exception:
        pipe.send({"error": traceback.format_exc()})
        return
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_serve(opened.variants[order["variant"]], order))
        except Exception:
            pipe.send({"error": traceback.format_exc()})


def _sizes(opened: Opened) -> dict[str, int]:
    return {name: opened.sizes.get(name, 0) for name in opened.variants}


def _serve(run: Run, order: Mapping[str, Any]) -> dict[str, Any]:
    if order["answers"]:
        answers = np.concatenate([run(batch) for batch in order["iterations"][0]])
        if not np.isfinite(answers).all():
            raise ValueError("answers are not finite")
        return {"answers": answers}
    gc.collect()
    gc.disable()
    seconds = [_timed(run, iteration) for iteration in order["iterations"]]
    gc.enable()
    return {"seconds": seconds[order["warm"] :]}


def _timed(run: Run, iteration: workloads.Iteration) -> float:
    began = time.perf_counter()
    for batch in iteration:
        run(batch)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
