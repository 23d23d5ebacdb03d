"""An encoder on a GPU: integers out in one copy, pooled vectors back in one copy.

Only what answers need leaves the device: a vector per row, or hidden states where tokens are
tagged. Heads compute on the host, from the fetched vectors, as they do without a GPU.

All lanes use one stream, so the device runs one batch after the other; while a lane waits for its
results, another one writes its batch and starts it. Lanes take turns in starting, not in waiting.

Shapes: T tokens, B rows, D hidden width.
"""

import logging
import queue
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from bertd import families
from bertd.model import cuda_graphs, cuda_inputs, cuda_layers, packing

LANES = 2  # batches in flight: one computes while the other is prepared or read
PRECISIONS = tuple(cuda_layers.DTYPES)
TOKENS = "token"  # what a head reads that looks at hidden states themselves

log = logging.getLogger("bertd.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What came back of a batch: by what heads read, [B, D] each, or [T, D] for `token`."""

    by_input: Mapping[str, torch.Tensor]
    batch: packing.PackedBatch

    def pooled(self, mode: str) -> torch.Tensor:
        """One fp32 vector per row [B, D]; `mode` is one that was asked for."""
        return self.by_input[mode]

    def tokens(self, row: int) -> torch.Tensor:
        """Hidden states of a row's tokens, fp32 [tokens, D]."""
        start = int(self.batch.starts_B[row])
        return self.by_input[TOKENS][start : start + self.batch.lengths_B[row]]


class DeviceEncoder:
    """Runs packed batches on one device; shared by all lanes.

    Args:
        shape: the family's shape.
        weights: canonical name -> fp32 tensor (`families.encoder_names`).
        precision: one of `PRECISIONS`; fp32 is for comparing, a GPU serves bf16 or fp8.
        device: the GPU; a CPU runs the same steps, for tests.
    """

    def __init__(
        self,
        shape: families.EncoderShape,
        weights: Mapping[str, torch.Tensor],
        precision: str,
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.precision = precision
        self.device = device
        # Where a product is split, its parts would be summed in bf16.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._network = cuda_layers.Network(shape, weights, precision, device)
        self.bias_dtype = self._network.dtype
        self.kernels = "cuda varlen" if self._network.is_varlen else "cuda"
        self.reason = "" if self._network.is_varlen else "attention runs group by group"
        self._graphs: tuple[cuda_graphs.Graph, ...] = ()
        self._stream = _stream(device) if device.type == "cuda" else None
        if self._stream is not None:  # what laid out the weights ran on another one
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._starting = threading.Lock()
        self._staging: queue.SimpleQueue[cuda_inputs.Staging] = queue.SimpleQueue()
        for _ in range(LANES):
            self._staging.put(cuda_inputs.Staging(device))

    @property
    def weight_bytes(self) -> int:
        """Bytes of device memory that the weights occupy."""
        return self._network.weight_bytes

    def warm_up(self, rows_SLW: torch.Tensor) -> None:
        """Captures a graph for each size of small batches, once; none where rows need groups.

        The table must stay where it is: graphs read it at its address.
        """
        if self._graphs or not self._network.is_varlen or self.device.type != "cuda":
            return
        try:
            self._graphs = cuda_graphs.capture(self._network, self.shape, rows_SLW)
        except RuntimeError as error:
            log.exception("small batches run without CUDA graphs, slowly")
            self.reason = f"no CUDA graphs: {type(error).__name__}"

    def fetch(
        self,
        batch: packing.PackedBatch,
        rows_SLW: torch.Tensor,
        tail_SD: torch.Tensor,
        wanted: Collection[str],
    ) -> Fetched:
        """Computes a batch and brings back what `wanted` names.

        Args:
            batch: the packed rows.
            rows_SLW: folded biases [slots, layers, `stack.row_width`] on the device, always the
                same ones after `warm_up`.
            tail_SD: the last LayerNorm's bias per slot [slots, D], on the device.
            wanted: what heads read: `mean`, `max`, `cls`, `pooler` or `token`.
        """
        staging = self._staging.get()
        try:
            with self._starting, torch.cuda.stream(self._stream):
                inputs, x_TD = self._forward(batch, rows_SLW, staging)
                results = {
                    name: _read(x_TD, inputs, tail_SD, name, batch) for name in sorted(wanted)
                }
                staging.fetch(list(results.values()))
            found = staging.receive([result.shape for result in results.values()])
        except BaseException:
            if self._stream is not None:  # a copy may still read what the next batch writes
                self._stream.synchronize()
            raise
        finally:
            self._staging.put(staging)
        return Fetched(by_input=dict(zip(results, found, strict=True)), batch=batch)

    def _forward(
        self, batch: packing.PackedBatch, rows_SLW: torch.Tensor, staging: cuda_inputs.Staging
    ) -> tuple[cuda_inputs.Inputs, torch.Tensor]:
        first = self.shape.position_offset
        graph = cuda_graphs.smallest(self._graphs, batch)
        if graph is not None:
            staging.send(batch, graph.room, first, graph.block)
            graph.graph.replay()
            return graph.inputs, graph.hidden_TD
        room = cuda_inputs.Room.of(batch)
        inputs = cuda_inputs.views(staging.send(batch, room, first), room, batch.groups)
        return inputs, self._network.run(inputs, rows_SLW)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _read(
    x_TD: torch.Tensor,
    inputs: cuda_inputs.Inputs,
    tail_SD: torch.Tensor,
    name: str,
    batch: packing.PackedBatch,
) -> torch.Tensor:
    """What heads read, in fp32; the last LayerNorm's bias is added where there is least to add."""
    rows = len(batch.lengths_B)
    if name == TOKENS:
        tokens = len(batch.ids_T)
        return x_TD[:tokens].float() + tail_SD.index_select(0, inputs.slots_T[:tokens])
    tail_BD = tail_SD.index_select(0, inputs.slots_B[:rows])
    offsets = inputs.offsets[: rows + 1]
    if name in ("cls", "pooler"):
        return x_TD.index_select(0, offsets[:rows]).float() + tail_BD
    # unsafe: a check of the offsets would wait for the device
    pooled_BD = torch.segment_reduce(x_TD.float(), name, offsets=offsets, axis=0, unsafe=True)
    return pooled_BD + tail_BD
