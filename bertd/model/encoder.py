"""The packed encoder of every post-LN BERT family, with folded biases.

Shape suffixes: T tokens of all rows, D hidden width, S slots of the adapter table, L layers, W
folded biases of a layer. Hidden states travel without their LayerNorm bias: what a LayerNorm would
add has been folded into the products that read it (`bertd.adapters.fold` derives the four sites
that remain per layer), and the last one is added at the end.

BERT: Devlin et al. 2019.
"""

from collections.abc import Mapping
from typing import Literal

import torch

from bertd import families
from bertd.kernels import eager, native, stack
from bertd.model import embedding, layers, packing

PRECISIONS = ("fp32", "bf16", "int8")
EAGER = "torch"  # what is named as kernels where no library runs


class Encoder:
    """Runs packed batches; immutable after construction, shared by all lanes.

    Hidden states are fp32 in every precision; precision is what products read.

    Args:
        shape: the family's shape.
        weights: canonical name -> fp32 tensor (`families.encoder_names`).
        precision: fp32, bf16 or int8.
        library: native code to run the layers; by default this machine's, where there is any. None
            runs them with torch.

    Raises:
        BadArtifact: int8 of a weight that is not finite.
    """

    def __init__(
        self,
        shape: families.EncoderShape,
        weights: Mapping[str, torch.Tensor],
        precision: str = "fp32",
        library: stack.Library | Literal["auto"] | None = "auto",
    ) -> None:
        self.shape = shape
        self.precision = precision
        self.bias_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        chosen = native.open_library() if library == "auto" else library
        self.kernels = chosen.isa if chosen else EAGER
        self.reason = native.reason() if library == "auto" else ""  # why not native, though wanted
        self._embed = embedding.Embedding(shape, weights, self.bias_dtype)
        made_of = layers.stack_of(shape, weights, precision)
        self._layers: stack.Runner = chosen.prepare(made_of) if chosen else eager.Twin(made_of)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights occupy."""
        return self._embed.nbytes + self._layers.weight_bytes

    def forward(
        self,
        batch: packing.PackedBatch,
        rows_SLW: torch.Tensor,
        tail_SD: torch.Tensor,
        threads: int = 1,
        first_only: bool = False,
    ) -> torch.Tensor:
        """Hidden states [T, D] of the last layer, in fp32.

        Args:
            batch: the packed rows.
            rows_SLW: folded biases [slots, layers, `stack.row_width`] in `bias_dtype`.
            tail_SD: the last LayerNorm's bias per slot [slots, D], added at the end.
            threads: how many threads of native code compute together.
            first_only: only each row's first token will be read; the others may be anything.
        """
        x_TD = self._embed(batch)
        self._layers.run(x_TD, batch, rows_SLW, threads, first_only)
        tail_iD = tail_SD.index_select(0, batch.slot_i)
        if first_only:
            tail_BD = tail_iD.to(x_TD.dtype).expand(len(batch.starts_B), -1)
            x_TD.index_add_(0, batch.starts_B, tail_BD)
        else:
            eager.add(x_TD, tail_iD, batch)
        return x_TD
