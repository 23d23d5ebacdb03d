"""The device encoder over tiny models, for tests of the GPU's path on a CPU and on a GPU."""

import numpy as np
import torch

from bertd import frames
from bertd.adapters import bank
from bertd.checkpoint import adapter_file
from bertd.engine import runner
from bertd.kernels import stack
from bertd.model import cuda, packing
from tests import tiny

CPU = torch.device("cpu")
WIDE = {"hidden_size": 64, "intermediate_size": 256}  # what fp8 products and flash attention take


def engine_of(
    model: tiny.Tiny, precision: str = "fp32", device: torch.device = CPU
) -> runner.Runner:
    """The engine's runner over the device encoder and a tiny model's own head."""
    made = cuda.DeviceEncoder(model.shape, model.weights, precision, device)
    head = None
    if model.layout:
        problem = "token" if model.layout.input == "token" else "single_label"
        kind = adapter_file.Head(kind=model.layout.kind, input=model.layout.input, problem=problem)
        head = (kind, {name: tensor.numpy() for name, tensor in model.head.items()})
    adapters = bank.Bank(
        model.shape,
        model.weights.__getitem__,
        dtype=made.bias_dtype,
        has_pooler="pooler.weight" in model.weights,
        base_head=head,
        slots=64,
        device=device,
    )
    return runner.Runner(made, adapters, "mean")


def run(
    engine: runner.Runner, ids: list[np.ndarray], types: list[np.ndarray], task: frames.Task
) -> list[np.ndarray]:
    """All rows in one batch, all on the base."""
    rows = [(i, t, bank.BASE_SLOT, task) for i, t in zip(ids, types, strict=True)]
    return engine.run(frames.pack_rows(1, rows)).vectors


def packed(lengths: list[int], slots: list[int], seed: int = 0) -> packing.PackedBatch:
    """Rows of random ids."""
    rng = np.random.default_rng(seed)
    return packing.pack(
        ids_T=rng.integers(5, 99, sum(lengths)).astype(np.int32),
        types_T=rng.integers(0, 2, sum(lengths)).astype(np.uint8),
        lengths_B=np.array(lengths, np.int32),
        slots_B=np.array(slots, np.int32),
        position_offset=0,
    )


def tables(model: tiny.Tiny, slots: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random folded biases and tails."""
    generator = torch.Generator().manual_seed(3)
    width = stack.row_width(model.shape)
    rows_SLW = torch.randn(slots, model.shape.layers, width, generator=generator)
    return rows_SLW, torch.randn(slots, model.shape.hidden, generator=generator)
