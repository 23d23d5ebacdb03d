"""The packed encoder of every post-LN BERT family, with folded biases.

Shape suffixes: T tokens of all rows, D hidden width, F FFN width, H heads, n rows of a group,
s their length, i rows of the adapter table that the batch reads, W folded biases of a layer. A
suffix `_hat` marks a hidden state without its LayerNorm bias: the bias that a LayerNorm would add
here has been folded into the products that read it (`bertd.adapters.fold` derives the four sites
that remain per layer).

BERT: Devlin et al. 2019; MPNet's relative bias: Raffel et al. 2020 (T5), section 2.1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bertd import families
from bertd.model import packing

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
RELATIVE_MAX_DISTANCE_TOKENS = 128  # MPNet, as T5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Where one layer's folded biases lie in a row of 7h values: query, output, up, down."""

    query: slice
    output: slice
    up: slice
    down: slice

    @classmethod
    def of(cls, shape: families.EncoderShape) -> "Sites":
        """The layout for `shape`; its width is `row_width(shape)`."""
        h, f = shape.hidden, shape.ffn
        return cls(
            query=slice(0, h),
            output=slice(h, 2 * h),
            up=slice(2 * h, 2 * h + f),
            down=slice(2 * h + f, 3 * h + f),
        )


def row_width(shape: families.EncoderShape) -> int:
    """Folded bias values of one layer: 3h + f, which is 7h where f = 4h."""
    return 3 * shape.hidden + shape.ffn


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer's weights; biases live in the adapter table."""

    qkv_w: torch.Tensor  # [3D, D]
    output_w: torch.Tensor  # [D, D]
    attention_gain: torch.Tensor  # [D]
    up_w: torch.Tensor  # [F, D]
    down_w: torch.Tensor  # [D, F]
    ffn_gain: torch.Tensor  # [D]


class Encoder:
    """Runs packed batches; immutable after construction, shared by all lanes.

    Args:
        shape: the family's shape.
        weights: canonical name -> fp32 tensor (`families.encoder_names`).
        dtype: torch.float32 or torch.bfloat16: the type of weights and hidden states.
    """

    def __init__(
        self,
        shape: families.EncoderShape,
        weights: Mapping[str, torch.Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        def own(name: str) -> torch.Tensor:
            return weights[name].to(dtype).contiguous()

        self.shape = shape
        self.dtype = dtype
        self._sites = Sites.of(shape)
        self._activation = ACTIVATIONS[shape.activation]
        self._word = own("embeddings.word.weight")
        self._position = own("embeddings.position.weight")
        self._token_type = own("embeddings.token_type.weight") if shape.token_types else None
        self._embedding_gain = own("embeddings.norm.weight")
        projected = shape.embedding != shape.hidden
        self._project = own("embeddings.project.weight") if projected else None
        self._layers = tuple(_layer(own, f"layers.{i}") for i in range(shape.layers))
        self._relative = _relative_bias(shape, own) if shape.relative_buckets else None

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights occupy."""
        singles = (self._word, self._position, self._token_type, self._project, self._relative)
        layered = [
            t
            for y in self._layers
            for t in (y.qkv_w, y.output_w, y.up_w, y.down_w, y.attention_gain, y.ffn_gain)
        ]
        return sum(t.nbytes for t in (*singles, *layered) if t is not None)

    def forward(
        self, batch: packing.PackedBatch, rows_SLW: torch.Tensor, tail_SD: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states [T, D] of the last layer.

        Args:
            batch: the packed rows.
            rows_SLW: folded biases [slots, layers, `row_width`], dtype as the encoder's.
            tail_SD: the last LayerNorm's bias per slot [slots, D], added at the end.
        """
        x_TD = self._embed(batch)
        for index, layer in enumerate(self._layers):
            bias_iW = rows_SLW[:, index].index_select(0, batch.slot_i)
            x_TD = self._run_layer(layer, x_TD, bias_iW, batch)
        _add(x_TD, tail_SD.index_select(0, batch.slot_i), batch)
        return x_TD

    def _embed(self, batch: packing.PackedBatch) -> torch.Tensor:
        x_TD = F.embedding(batch.ids_T, self._word)
        if self._token_type is not None:
            x_TD += F.embedding(batch.types_T, self._token_type)
        x_TD += F.embedding(batch.positions_T, self._position)
        x_TD = self._norm(x_TD, self._embedding_gain)
        return x_TD if self._project is None else F.linear(x_TD, self._project)

    def _run_layer(
        self, layer: Layer, x_TD: torch.Tensor, bias_iW: torch.Tensor, batch: packing.PackedBatch
    ) -> torch.Tensor:
        sites = self._sites
        q_TD, k_TD, v_TD = F.linear(x_TD, layer.qkv_w).chunk(3, dim=1)
        _add(q_TD, bias_iW[:, sites.query], batch)
        context_TD = self._attend(q_TD, k_TD, v_TD, batch)
        y_TD = F.linear(context_TD, layer.output_w)
        y_TD += x_TD
        _add(y_TD, bias_iW[:, sites.output], batch)
        y_TD = self._norm(y_TD, layer.attention_gain)
        up_TF = F.linear(y_TD, layer.up_w)
        _add(up_TF, bias_iW[:, sites.up], batch)
        z_TD = F.linear(self._activation(up_TF), layer.down_w)
        z_TD += y_TD
        _add(z_TD, bias_iW[:, sites.down], batch)
        return self._norm(z_TD, layer.ffn_gain)

    def _attend(
        self,
        q_TD: torch.Tensor,
        k_TD: torch.Tensor,
        v_TD: torch.Tensor,
        batch: packing.PackedBatch,
    ) -> torch.Tensor:
        context_TD = torch.empty_like(q_TD)
        for group in batch.groups:
            span = slice(group.start, group.stop)
            mask = None
            if self._relative is not None:
                mask = self._relative[:, : group.length, : group.length]
            out_nHsd = F.scaled_dot_product_attention(
                self._heads(q_TD[span], group),
                self._heads(k_TD[span], group),
                self._heads(v_TD[span], group),
                attn_mask=mask,
            )
            context_TD[span] = out_nHsd.transpose(1, 2).reshape(-1, self.shape.hidden)
        return context_TD

    def _heads(self, x_tD: torch.Tensor, group: packing.Group) -> torch.Tensor:
        return x_tD.view(group.rows, group.length, self.shape.heads, -1).transpose(1, 2)

    def _norm(self, x_TD: torch.Tensor, gain_D: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_TD, gain_D.shape, weight=gain_D, eps=self.shape.norm_eps)


def _add(x_TD: torch.Tensor, bias_iD: torch.Tensor, batch: packing.PackedBatch) -> None:
    """Adds to every token its row's bias, in place; no bias is ever laid out per token."""
    for group in batch.biased:
        x_nsD = x_TD[group.start : group.stop].view(group.rows, group.length, -1)
        x_nsD += bias_iD[group.row : group.row + group.rows].unsqueeze(1)


def _layer(own: Callable[[str], torch.Tensor], prefix: str) -> Layer:
    qkv = [own(f"{prefix}.{part}.weight") for part in ("query", "key", "value")]
    return Layer(
        qkv_w=torch.cat(qkv),
        output_w=own(f"{prefix}.output.weight"),
        attention_gain=own(f"{prefix}.attention_norm.weight"),
        up_w=own(f"{prefix}.up.weight"),
        down_w=own(f"{prefix}.down.weight"),
        ffn_gain=own(f"{prefix}.ffn_norm.weight"),
    )


def _relative_bias(
    shape: families.EncoderShape, own: Callable[[str], torch.Tensor]
) -> torch.Tensor:
    """[H, s, s] for the longest row; shorter rows read its corner, since only distance counts."""
    position_s = torch.arange(shape.max_tokens)
    distance_ss = position_s[None, :] - position_s[:, None]
    bucket_ss = _relative_bucket(distance_ss, shape.relative_buckets)
    return F.embedding(bucket_ss, own("relative.weight")).permute(2, 0, 1).contiguous()


def _relative_bucket(distance: torch.Tensor, buckets: int) -> torch.Tensor:
    """T5's bidirectional buckets: near distances exactly, far ones on a log scale."""
    half = buckets // 2
    exact = half // 2
    back = distance.abs()
    scale = math.log(RELATIVE_MAX_DISTANCE_TOKENS / exact)
    far = exact + (back.clamp(min=1).float() / exact).log().div(scale).mul(half - exact).long()
    near_or_far = torch.where(back < exact, back, far.clamp(max=half - 1))
    return near_or_far + torch.where(distance > 0, half, 0)
