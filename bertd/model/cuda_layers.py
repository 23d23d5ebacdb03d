"""The layers of a packed encoder on a GPU, in plain torch: nothing is compiled where it runs.

Every token takes its biases from the adapter table by its own slot, so a batch of one adapter and a
batch of many launch the same kernels on the same shapes. A gathered bias is the matrix that the
product behind it adds to, so adding it costs no pass over memory of its own.

The stream of hidden states has the products' type. In bf16 that halves what every step between
products moves, which is what a GPU waits for, and costs little accuracy: a product sums bias,
residual and result in fp32 and rounds once, and LayerNorm computes in fp32 inside.

Shape suffixes are those of `bertd.kernels.stack`; E three times D; n rows of a group, s their
length, d width of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bertd import families
from bertd.kernels import eager, stack
from bertd.model import cuda_inputs, embedding, fp8, relative

VARLEN_WIDTH_MULTIPLE = 8  # of a head, as flash attention takes it
VARLEN_WIDTH_MAX = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """y = x W^T in the type of its weight [N, K]."""

    weight_NK: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.weight_NK.nbytes

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        """[T, K] -> [T, N]."""
        return F.linear(x_TK, self.weight_NK)

    def onto(self, y_TN: torch.Tensor, x_TK: torch.Tensor) -> torch.Tensor:
        """Adds the product to `y_TN`, in place, in one step that rounds once."""
        return y_TN.addmm_(x_TK, self.weight_NK.t())


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer's weights on the device; biases live in the adapter table."""

    qkv: Linear | fp8.Linear
    output: Linear
    attention_gain_D: torch.Tensor
    up: Linear | fp8.Linear
    down: Linear | fp8.Linear
    ffn_gain_D: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all its weights."""
        parts = (self.qkv, self.output, self.up, self.down, self.attention_gain_D, self.ffn_gain_D)
        return sum(part.nbytes for part in parts)


class Network:
    """Embeddings and layers on one device; immutable.

    Args:
        shape: the family's shape.
        weights: canonical name -> fp32 tensor, anywhere.
        precision: fp32, bf16 or fp8; with fp8 attention and its output product stay bf16.
        device: where to compute; a CPU runs the same steps, for tests.
    """

    def __init__(
        self,
        shape: families.EncoderShape,
        weights: Mapping[str, torch.Tensor],
        precision: str,
        device: torch.device,
    ) -> None:
        here = {name: weight.to(device) for name, weight in weights.items()}
        self.dtype = DTYPES[precision]
        self._shape = shape
        self._sites = stack.Sites.of(shape)
        self._activation = eager.ACTIVATIONS[shape.activation]
        self._embed = embedding.Embedding(shape, here, self.dtype)
        self._layers = tuple(_layer(here, f"layers.{i}", precision) for i in range(shape.layers))
        self._relative_HSS = None
        if shape.relative_buckets:
            bias_HSS = relative.relative_bias(shape, weights["relative.weight"])
            self._relative_HSS = bias_HSS.to(device, self.dtype)
        self.is_varlen = device.type == "cuda" and _takes_varlen(shape, self.dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of device memory that the weights occupy."""
        extra = 0 if self._relative_HSS is None else self._relative_HSS.nbytes
        return extra + self._embed.nbytes + sum(layer.nbytes for layer in self._layers)

    def run(self, inputs: cuda_inputs.Inputs, rows_SLW: torch.Tensor) -> torch.Tensor:
        """Hidden states [T, D] of the last layer, without the bias of their LayerNorm."""
        x_TD = self._embed(inputs).to(self.dtype)
        for index, layer in enumerate(self._layers):
            x_TD = self._run_layer(layer, x_TD, rows_SLW[:, index], inputs)
        return x_TD

    def _run_layer(
        self,
        layer: Layer,
        x_TD: torch.Tensor,
        bias_SW: torch.Tensor,
        inputs: cuda_inputs.Inputs,
    ) -> torch.Tensor:
        def bias(site: slice) -> torch.Tensor:
            return bias_SW[:, site].index_select(0, inputs.slots_T)

        sites = self._sites
        qkv_TE = layer.qkv(x_TD)
        qkv_TE[:, : self._shape.hidden] += bias(sites.query)
        context_TD = self._attend(qkv_TE, inputs)
        y_TD = layer.output.onto(bias(sites.output).add_(x_TD), context_TD)
        y_TD = self._norm(y_TD, layer.attention_gain_D)
        up_TF = layer.up.onto(bias(sites.up), y_TD)
        z_TD = layer.down.onto(bias(sites.down).add_(y_TD), self._activation(up_TF))
        return self._norm(z_TD, layer.ffn_gain_D)

    def _attend(self, qkv_TE: torch.Tensor, inputs: cuda_inputs.Inputs) -> torch.Tensor:
        if not self.is_varlen:
            # for fp32, relative biases and unusual widths
            return eager.attend(qkv_TE, inputs.groups, self._shape.heads, self._relative_HSS)
        from torch.nn.attention import varlen  # noqa: PLC0415 (takes a second, for GPUs alone)

        q_THd, k_THd, v_THd = qkv_TE.view(len(qkv_TE), 3, self._shape.heads, -1).unbind(1)
        context_THd = varlen.varlen_attn(
            q_THd, k_THd, v_THd, inputs.offsets, inputs.offsets, inputs.longest, inputs.longest
        )
        assert isinstance(context_THd, torch.Tensor)  # it returns more only when asked to
        return context_THd.flatten(1)

    def _norm(self, x_TD: torch.Tensor, gain_D: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_TD, gain_D.shape, weight=gain_D, eps=self._shape.norm_eps)


def _takes_varlen(shape: families.EncoderShape, dtype: torch.dtype) -> bool:
    width = shape.hidden // shape.heads
    return (
        dtype == torch.bfloat16
        and not shape.relative_buckets
        and width % VARLEN_WIDTH_MULTIPLE == 0
        and width <= VARLEN_WIDTH_MAX
    )


def _layer(weights: Mapping[str, torch.Tensor], prefix: str, precision: str) -> Layer:
    dtype = DTYPES[precision]

    def own(*parts: str) -> torch.Tensor:
        return torch.cat([weights[f"{prefix}.{part}.weight"] for part in parts])

    def linear(*parts: str) -> Linear | fp8.Linear:
        return fp8.linear(own(*parts)) if precision == "fp8" else plain(*parts)

    def plain(*parts: str) -> Linear:
        return Linear(weight_NK=own(*parts).to(dtype))

    return Layer(
        qkv=linear("query", "key", "value"),
        output=plain("output"),
        attention_gain_D=own("attention_norm").to(dtype),
        up=linear("up"),
        down=linear("down"),
        ffn_gain_D=own("ffn_norm").to(dtype),
    )
