"""From a checkpoint's fp32 weights to the stack of layers that kernels run."""

from collections.abc import Mapping

import torch

from bertd import errors, families
from bertd.kernels import layout, stack
from bertd.model import relative


def stack_of(
    shape: families.EncoderShape, weights: Mapping[str, torch.Tensor], precision: str
) -> stack.Stack:
    """Lays out every layer in `precision`.

    Args:
        shape: the family's shape.
        weights: canonical name -> fp32 tensor.
        precision: fp32, bf16 or int8.

    Raises:
        BadArtifact: a weight is not finite; the message names it.
    """
    relative_HSS = None
    if shape.relative_buckets:
        relative_HSS = relative.relative_bias(shape, weights["relative.weight"])
    return stack.Stack(
        shape=shape,
        precision=precision,
        layers=tuple(_layer(weights, f"layers.{i}", precision) for i in range(shape.layers)),
        relative_HSS=relative_HSS,
    )


def _layer(weights: Mapping[str, torch.Tensor], prefix: str, precision: str) -> stack.Layer:
    def linear(*parts: str) -> layout.Linear:
        found = [weights[f"{prefix}.{part}.weight"] for part in parts]
        try:
            return layout.pack(torch.cat(found) if len(found) > 1 else found[0], precision)
        except errors.BadArtifact as error:
            names = ", ".join(f"`{prefix}.{part}.weight`" for part in parts)
            raise errors.BadArtifact(f"{names}: {error.message}", reason=error.reason) from error

    return stack.Layer(
        qkv=linear("query", "key", "value"),
        output=linear("output"),
        up=linear("up"),
        down=linear("down"),
        attention_gain_D=weights[f"{prefix}.attention_norm.weight"].float().contiguous(),
        ffn_gain_D=weights[f"{prefix}.ffn_norm.weight"].float().contiguous(),
    )
