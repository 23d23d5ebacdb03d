"""The eager torch twin of the native library: its oracle, and what runs where it is missing.

Every precision keeps hidden states, biases, LayerNorm and the activation in fp32, and rounds what a
product reads:

    fp32    products in fp32
    bf16    operands rounded to bf16; torch also rounds the product, which native code does not
    int8    activations quantised per token (`layout.quantise_tokens`), products in integers

int8 goes through `torch._int_mm`, which is signed: unsigned levels are shifted by 128, and the
shift is taken back with the weight's totals. Never through `onednn.qlinear_pointwise`, which runs a
reference kernel for signed activations. On processors without VNNI instructions oneDNN's signed
product saturates between its steps and gives wrong numbers, so it is tried once; where it is wrong,
an fp32 product of the same whole numbers takes its place.

Shape suffixes are those of `bertd.kernels.stack`; n rows of a group, s their length, d width of a
head, K and N inputs and outputs of a product.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bertd.kernels import layout, stack

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
SHIFT = 128  # from unsigned to signed levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """y = x Wᵀ for fp32 `x` [T, K], fp32 `y` [T, N], with W as torch likes to read it.

    `weight` is [N, K] fp32 or bf16, or int8 [K, N]. `scale_N` and `total_N` are int8's, and then
    an fp32 `weight` holds whole numbers.
    """

    weight: torch.Tensor
    scale_N: torch.Tensor | None = None
    total_N: torch.Tensor | None = None

    @classmethod
    def of(cls, linear: layout.Linear) -> "Product":
        """A copy of `linear` for torch."""
        found_NK = layout.values(linear)
        if linear.precision != "int8":
            return cls(weight=found_NK)
        # Not `contiguous()`: it leaves strides of [1, N] as they are, and oneDNN misreads those.
        found_KN = found_NK.t().clone(memory_format=torch.contiguous_format)
        return cls(
            weight=found_KN if int_mm_is_exact() else found_NK.float(),
            scale_N=linear.scale[: linear.rows].clone(),
            total_N=linear.total[: linear.rows].clone(),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        parts = (self.weight, self.scale_N, self.total_N)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        """[T, K] -> [T, N], both fp32."""
        if self.scale_N is None or self.total_N is None:
            return F.linear(x_TK.to(self.weight.dtype), self.weight).float()
        q_TK, scale_T, zero_T = layout.quantise_tokens(x_TK)
        if self.weight.dtype == torch.int8:
            shifted_TK = q_TK.bitwise_xor_(SHIFT).view(torch.int8)  # flipping the top bit: q - 128
            sums_TN = torch._int_mm(shifted_TK, self.weight).float()
            zero_T = zero_T - SHIFT
        else:
            sums_TN = F.linear(q_TK.float(), self.weight)
        sums_TN.addr_(zero_T, self.total_N, alpha=-1.0)
        sums_TN *= self.scale_N
        return sums_TN.mul_(scale_T[:, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer as torch reads it."""

    qkv: Product
    output: Product
    attention_gain_D: torch.Tensor
    up: Product
    down: Product
    ffn_gain_D: torch.Tensor

    @classmethod
    def of(cls, layer: stack.Layer) -> "Layer":
        """A copy of `layer` for torch."""
        return cls(
            qkv=Product.of(layer.qkv),
            output=Product.of(layer.output),
            attention_gain_D=layer.attention_gain_D,
            up=Product.of(layer.up),
            down=Product.of(layer.down),
            ffn_gain_D=layer.ffn_gain_D,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        parts = (self.qkv, self.output, self.up, self.down)
        return sum(part.nbytes for part in (*parts, self.attention_gain_D, self.ffn_gain_D))


class Twin:
    """Runs a stack's layers with torch; a `stack.Runner` that keeps copies and not the stack.

    Args:
        made_of: the layers and their precision.
        attention_dtype: of query, key, value and what is computed from them; by default bf16 for
            bf16, else fp32. Tests give the native library's own, to compare like with like.
    """

    def __init__(self, made_of: stack.Stack, attention_dtype: torch.dtype | None = None) -> None:
        default = torch.bfloat16 if made_of.precision == "bf16" else torch.float32
        relative_HSS = made_of.relative_HSS
        self._shape = made_of.shape
        self._sites = stack.Sites.of(made_of.shape)
        self._activation = ACTIVATIONS[made_of.shape.activation]
        self._attention_dtype = attention_dtype or default
        self._layers = tuple(Layer.of(layer) for layer in made_of.layers)
        self._relative_HSS = (
            None if relative_HSS is None else relative_HSS.to(self._attention_dtype)
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory that its weights occupy."""
        relative = 0 if self._relative_HSS is None else self._relative_HSS.nbytes
        return relative + sum(layer.nbytes for layer in self._layers)

    def run(
        self,
        x_TD: torch.Tensor,
        rows: stack.Rows,
        rows_SLW: torch.Tensor,
        threads: int = 1,
        first_only: bool = False,
    ) -> None:
        """Runs all layers over `x_TD`, in place: all tokens, on the threads that torch has."""
        y_TD = x_TD
        for index, layer in enumerate(self._layers):
            bias_iW = rows_SLW[:, index].index_select(0, rows.slot_i)
            y_TD = self._run_layer(layer, y_TD, bias_iW, rows)
        x_TD.copy_(y_TD)

    def _run_layer(
        self, layer: Layer, x_TD: torch.Tensor, bias_iW: torch.Tensor, rows: stack.Rows
    ) -> torch.Tensor:
        sites = self._sites
        qkv_TE = layer.qkv(x_TD)
        add(qkv_TE[:, : self._shape.hidden], bias_iW[:, sites.query], rows)
        context_TD = attend(
            qkv_TE.to(self._attention_dtype), rows.groups, self._shape.heads, self._relative_HSS
        )
        y_TD = layer.output(context_TD.float())
        y_TD += x_TD
        add(y_TD, bias_iW[:, sites.output], rows)
        y_TD = self._norm(y_TD, layer.attention_gain_D)
        up_TF = layer.up(y_TD)
        add(up_TF, bias_iW[:, sites.up], rows)
        z_TD = layer.down(self._activation(up_TF))
        z_TD += y_TD
        add(z_TD, bias_iW[:, sites.down], rows)
        return self._norm(z_TD, layer.ffn_gain_D)

    def _norm(self, x_TD: torch.Tensor, gain_D: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_TD, gain_D.shape, weight=gain_D, eps=self._shape.norm_eps)


def attend(
    qkv_TE: torch.Tensor,
    groups: Sequence[stack.Group],
    heads: int,
    relative_HSS: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of each group of equal rows at once: nobody is padded to anybody's length.

    Args:
        qkv_TE: query, key and value of every token, side by side.
        groups: the rows.
        heads: how many each of the three is divided into.
        relative_HSS: added to the scores of each head, in the dtype of `qkv_TE`; or None.

    Returns:
        [T, D] in the dtype and on the device of `qkv_TE`.
    """
    context_TD = torch.empty_like(qkv_TE[:, : qkv_TE.shape[1] // 3])
    for group in groups:
        span = slice(group.start, group.stop)
        mask = None
        if relative_HSS is not None:
            mask = relative_HSS[:, : group.length, : group.length]
        parts = qkv_TE[span].view(group.rows, group.length, 3, heads, -1)
        q_nHsd, k_nHsd, v_nHsd = parts.permute(2, 0, 3, 1, 4)
        out_nHsd = F.scaled_dot_product_attention(q_nHsd, k_nHsd, v_nHsd, attn_mask=mask)
        context_TD[span] = out_nHsd.transpose(1, 2).reshape(len(context_TD[span]), -1)
    return context_TD


def add(x_TD: torch.Tensor, bias_iD: torch.Tensor, rows: stack.Rows) -> None:
    """Adds to every token its row's bias, in place; no bias is ever laid out per token."""
    for group in rows.biased:
        x_nsD = x_TD[group.start : group.stop].view(group.rows, group.length, -1)
        x_nsD += bias_iD[group.row : group.row + group.rows].unsqueeze(1)


@functools.cache
def int_mm_is_exact() -> bool:
    """Whether this processor multiplies signed bytes without saturating; extremes tell."""
    a = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(a, a.t().contiguous()) == 64 * 127 * 127).all())
