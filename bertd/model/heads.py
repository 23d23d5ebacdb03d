"""What is computed on top of hidden states: pooling and classification heads.

Heads belong to adapters, so one batch may need many, with different label counts. Rows are pooled
together, run through their heads' dense parts, one product per distinct weight, and the last
products are batched per label count, unless heads are so large that laying them side by side would
cost more than it saves. Heads compute in fp32 whatever the encoder's precision, from
numpy arrays: there may be very many, and views of those are cheap to make for a batch.

Shapes: B rows of the batch, n rows of one call here, T tokens, D hidden width, C labels.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bertd.model import packing

DENSE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dense-tanh": torch.tanh,
    "dense-gelu": F.gelu,
    "dense-relu": F.relu,
}
STACKED_MAX_VALUES = 1 << 20  # of the last weights of a batch, copied side by side: 4 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer in fp32: `weight` [out, in], `bias` [out]."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, torch.from_numpy(self.weight), torch.from_numpy(self.bias))


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A classifier over one of the inputs `cls`, `pooler`, `mean`, `token`.

    `pooler` is set where the input is `pooler`; `dense` where the kind has one (see `DENSE`).
    """

    kind: str
    input: str
    out: Dense
    dense: Dense | None = None
    pooler: Dense | None = None


def pool(hidden_TD: torch.Tensor, batch: packing.PackedBatch, mode: str) -> torch.Tensor:
    """One fp32 vector per row [B, D]: `mean` or `max` over tokens, or `cls`, the first one."""
    if mode in ("cls", "pooler"):
        return hidden_TD.index_select(0, batch.starts_B).float()
    reduce = torch.mean if mode == "mean" else torch.amax
    parts = [
        reduce(hidden_TD[g.start : g.stop].float().view(g.rows, g.length, -1), dim=1)
        for g in batch.groups
    ]
    return torch.cat(parts)


def classify(
    hidden_TD: torch.Tensor, batch: packing.PackedBatch, rows: Sequence[int], heads: Sequence[Head]
) -> list[torch.Tensor]:
    """Logits of `rows` (indices into the batch), each through its own head.

    Returns one fp32 tensor a row: [C] for sequence heads, [tokens, C] for `token` heads.
    """
    logits: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    by_input: dict[str, list[int]] = defaultdict(list)
    for place, head in enumerate(heads):
        by_input[head.input].append(place)
    for kind, places in by_input.items():
        chosen = [heads[p] for p in places]
        if kind == "token":
            results = _tag(hidden_TD, batch, [rows[p] for p in places], chosen)
        else:
            x_nD = pool(hidden_TD, batch, kind)[[rows[p] for p in places]]
            results = _sequence_logits(x_nD, chosen)
        for place, result in zip(places, results, strict=True):
            logits[place] = result
    return logits


def through(
    x_nD: torch.Tensor,
    layers: Sequence[Dense | None],
    activation: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Each row through its own layer and `activation`; rows without a layer stay as they are.

    Layers that share a weight (the same array), as poolers over one base do, share one product.
    """
    by_weight: dict[int, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        if layer is not None:
            by_weight[id(layer.weight)].append(place)
    if not by_weight:
        return x_nD
    results_nD = x_nD.clone()
    for places in by_weight.values():
        shared = [layer for place in places if (layer := layers[place]) is not None]
        weight = torch.from_numpy(shared[0].weight)
        bias_nD = torch.from_numpy(np.stack([layer.bias for layer in shared]))
        results_nD[places] = activation(F.linear(x_nD[places], weight) + bias_nD)
    return results_nD


def _sequence_logits(x_nD: torch.Tensor, heads: Sequence[Head]) -> list[torch.Tensor]:
    """One product per label count for any number of different heads, unless they are large."""
    x_nD = through(x_nD, [head.pooler for head in heads], torch.tanh)
    for kind, activation in DENSE.items():
        x_nD = through(x_nD, [h.dense if h.kind == kind else None for h in heads], activation)
    results: list[torch.Tensor] = [torch.empty(0)] * len(heads)
    by_labels: dict[int, list[int]] = defaultdict(list)
    for place, head in enumerate(heads):
        by_labels[len(head.out.bias)].append(place)
    for places in by_labels.values():
        layers = [heads[place].out for place in places]
        for place, row in zip(places, _last(x_nD[places], layers), strict=True):
            results[place] = row
    return results


def _last(x_nD: torch.Tensor, layers: Sequence[Dense]) -> torch.Tensor:
    """Each row through its own last layer, all of equal shape: [n, C]."""
    if len(layers) * layers[0].weight.size > STACKED_MAX_VALUES:
        return _one_by_one(x_nD, layers)
    w_nCD = torch.from_numpy(np.stack([layer.weight for layer in layers]))
    b_nC = torch.from_numpy(np.stack([layer.bias for layer in layers]))
    return torch.baddbmm(b_nC.unsqueeze(2), w_nCD, x_nD.unsqueeze(2)).squeeze(2)


def _one_by_one(x_nD: torch.Tensor, layers: Sequence[Dense]) -> torch.Tensor:
    """As `_last`, a product for each layer, which copies no weight."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        by_layer[id(layer)].append(place)
    logits_nC = x_nD.new_empty(len(layers), len(layers[0].bias))
    for places in by_layer.values():
        logits_nC[places] = layers[places[0]](x_nD[places])
    return logits_nC


def _tag(
    hidden_TD: torch.Tensor, batch: packing.PackedBatch, rows: Sequence[int], heads: Sequence[Head]
) -> list[torch.Tensor]:
    starts = batch.starts_B.tolist()
    spans = [slice(starts[r], starts[r] + batch.lengths_B[r]) for r in rows]
    return [
        _token_logits(hidden_TD[span].float(), head)
        for span, head in zip(spans, heads, strict=True)
    ]


def _token_logits(x_tD: torch.Tensor, head: Head) -> torch.Tensor:
    if head.dense is not None:
        x_tD = DENSE[head.kind](head.dense(x_tD))
    return head.out(x_tD)
