"""CUDA graphs: one launch for a whole forward, where launching costs more than computing.

A graph reads a block of fixed size and writes hidden states to a fixed place. Batches are laid into
the smallest block that holds them. All graphs are captured at warm-up, in one memory pool, so they
must run on one stream; what one of them wrote is read on that stream before the next one runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bertd import families
from bertd.model import cuda_inputs, cuda_layers, packing

# Tokens of each block: where computing costs more than launching, a block is never over a third
# larger than what did not fit the one before.
BUCKETS_TOKENS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
TOKENS_PER_ROW = 4  # a block has room for rows of that length
ROWS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A captured forward: its block of integers, and where hidden states [T, D] appear."""

    room: cuda_inputs.Room
    block: torch.Tensor
    inputs: cuda_inputs.Inputs
    hidden_TD: torch.Tensor
    graph: torch.cuda.CUDAGraph


def rooms(shape: families.EncoderShape) -> list[cuda_inputs.Room]:
    """The blocks of a family, small ones first; a few more rows than that are dummies."""
    found = []
    for tokens in BUCKETS_TOKENS:
        longest = min(tokens, shape.max_tokens)
        rows = min(tokens // TOKENS_PER_ROW, ROWS_MAX) + -(-tokens // longest)
        found.append(cuda_inputs.Room(tokens=tokens, rows=rows, longest=longest))
    return found


def smallest(graphs: Sequence[Graph], batch: packing.PackedBatch) -> Graph | None:
    """The first graph whose block holds `batch`; None: it runs without one."""
    return next((graph for graph in graphs if graph.room.holds(batch)), None)


def capture(
    network: cuda_layers.Network, shape: families.EncoderShape, rows_SLW: torch.Tensor
) -> tuple[Graph, ...]:
    """Captures a graph for every room, the largest first: the others fit into its memory.

    Raises:
        RuntimeError: torch or the driver cannot capture; what ran without graphs still does.
    """
    stream = torch.cuda.Stream(rows_SLW.device)  # type: ignore[no-untyped-call]
    pool = torch.cuda.graph_pool_handle()
    found = [
        _capture(network, room, rows_SLW, stream=stream, pool=pool, first=shape.position_offset)
        for room in reversed(rooms(shape))
    ]
    torch.cuda.synchronize(rows_SLW.device)
    return tuple(reversed(found))


def _capture(
    network: cuda_layers.Network,
    room: cuda_inputs.Room,
    rows_SLW: torch.Tensor,
    *,
    stream: torch.cuda.Stream,
    pool: Any,  # a handle that torch gives no public name
    first: int,
) -> Graph:
    staged = torch.empty(room.values, dtype=torch.int32)
    cuda_inputs.lay(_one_token(first), room, first, staged)
    block = staged.to(rows_SLW.device)
    inputs = cuda_inputs.views(block, room)
    stream.wait_stream(torch.cuda.current_stream(rows_SLW.device))
    with torch.cuda.stream(stream):
        network.run(inputs, rows_SLW)  # whatever is set up at first use must not be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        hidden_TD = network.run(inputs, rows_SLW)
    return Graph(room=room, block=block, inputs=inputs, hidden_TD=hidden_TD, graph=graph)


def _one_token(position: int) -> packing.PackedBatch:
    """What a block holds while it is captured, besides dummies."""
    return packing.pack(
        ids_T=np.zeros(1, np.int32),
        types_T=np.zeros(1, np.uint8),
        lengths_B=np.ones(1, np.int32),
        slots_B=np.zeros(1, np.int32),
        position_offset=position,
    )
