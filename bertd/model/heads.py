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
from typing import Protocol

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


class States(Protocol):
    """What a forward left of a batch, as heads and pooling read it."""

    def pooled(self, mode: str) -> torch.Tensor:
        """One fp32 vector per row [B, D]: `mean` or `max` over tokens, or `cls`, the first one."""

    def tokens(self, row: int) -> torch.Tensor:
        """Hidden states of a row's tokens, fp32 [tokens, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """All hidden states of a batch in this process's memory; see `States`."""

    hidden_TD: torch.Tensor
    batch: packing.PackedBatch

    def pooled(self, mode: str) -> torch.Tensor:
        """[B, D]; `pooler` reads what `cls` does."""
        if mode in ("cls", "pooler"):
            return self.hidden_TD.index_select(0, self.batch.starts_B).float()
        x_TD, lengths = self.hidden_TD.float(), self.batch.lengths_B
        if mode == "max":
            return torch.stack([x_tD.amax(dim=0) for x_tD in torch.split_with_sizes(x_TD, lengths)])
        if len(lengths) == 1:
            return x_TD.mean(dim=0, keepdim=True)
        # One pass for rows of any lengths: a call for each of them would cost far more.
        owner_T = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        sums_BD = x_TD.new_zeros(len(lengths), x_TD.shape[1]).index_add_(0, owner_T, x_TD)
        return sums_BD / torch.tensor(lengths).unsqueeze(1)

    def tokens(self, row: int) -> torch.Tensor:
        """[tokens, D]."""
        start = int(self.batch.starts_B[row])
        return self.hidden_TD[start : start + self.batch.lengths_B[row]].float()


def classify(states: States, rows: Sequence[int], heads: Sequence[Head]) -> list[torch.Tensor]:
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
            found = [states.tokens(rows[p]) for p in places]
            results = [_token_logits(x, head) for x, head in zip(found, chosen, strict=True)]
        else:
            x_nD = states.pooled(kind)[[rows[p] for p in places]]
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
        bias_nD = torch.from_numpy(_stacked([layer.bias for layer in shared]))
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
    w_nCD = torch.from_numpy(_stacked([layer.weight for layer in layers]))
    b_nC = torch.from_numpy(_stacked([layer.bias for layer in layers]))
    return torch.baddbmm(b_nC.unsqueeze(2), w_nCD, x_nD.unsqueeze(2)).squeeze(2)


def _stacked(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """As `np.stack`, without a Python call for each array."""
    return np.concatenate(arrays).reshape(len(arrays), *arrays[0].shape)


def _one_by_one(x_nD: torch.Tensor, layers: Sequence[Dense]) -> torch.Tensor:
    """As `_last`, a product for each layer, which copies no weight."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        by_layer[id(layer)].append(place)
    logits_nC = x_nD.new_empty(len(layers), len(layers[0].bias))
    for places in by_layer.values():
        logits_nC[places] = layers[places[0]](x_nD[places])
    return logits_nC


def _token_logits(x_tD: torch.Tensor, head: Head) -> torch.Tensor:
    if head.dense is not None:
        x_tD = DENSE[head.kind](head.dense(x_tD))
    return head.out(x_tD)
