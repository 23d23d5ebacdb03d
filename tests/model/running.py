"""Runs tiny models through the engine's runner, in any precision, by any kernels."""

import numpy as np

from bertd import frames
from bertd.adapters import bank
from bertd.checkpoint import adapter_file
from bertd.engine import runner
from bertd.kernels import stack
from bertd.model import encoder
from tests import tiny


def runner_of(
    model: tiny.Tiny, precision: str = "fp32", library: stack.Library | None = None
) -> runner.Runner:
    """The engine's runner over a tiny model and its own head; without a library, torch's."""
    head = None
    if model.layout:
        problem = "token" if model.layout.input == "token" else "single_label"
        kind = adapter_file.Head(kind=model.layout.kind, input=model.layout.input, problem=problem)
        head = (kind, {name: tensor.numpy() for name, tensor in model.head.items()})
    built = encoder.Encoder(model.shape, model.weights, precision, library)
    adapters = bank.Bank(
        model.shape,
        model.weights.__getitem__,
        dtype=built.bias_dtype,
        has_pooler="pooler.weight" in model.weights,
        base_head=head,
        slots=64,
    )
    return runner.Runner(built, adapters, "mean")


def run(
    engine: runner.Runner,
    ids: list[np.ndarray],
    types: list[np.ndarray],
    task: frames.Task,
    threads: int = 1,
) -> list[np.ndarray]:
    """All rows in one batch, all on the base."""
    rows = [(i, t, bank.BASE_SLOT, task) for i, t in zip(ids, types, strict=True)]
    return engine.run(frames.pack_rows(1, rows, threads)).vectors


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
