"""Folding: a layer's eight bias vectors (11h values) become four sites (7h), exactly.

In a post-LN encoder a LayerNorm's bias beta reaches the next layer only through products and the
residual sum, so it can move into them; softmax ignores any score term that is constant over the
keys, so the key bias vanishes; and because attention weights sum to one, the value bias passes
through attention unchanged into the output product. With `x = x_hat + beta_prev`:

    query   b_q' = b_q + W_q beta_prev
    key     dropped: q_i . c_k does not depend on the key, and softmax cancels it
    value   c_v  = b_v + W_v beta_prev, moved on:
    output  b_o' = b_o + W_o c_v + beta_prev
    up      b_1' = b_1 + W_1 beta_1
    down    b_2' = b_2 + beta_1
    next    beta_prev <- beta_2

Valid for post-LN encoders with absolute positions or a score bias that does not depend on the key's
content (MPNet); `families.fold_refusal` names the configurations where it is not. Compute it from
the original fp32 weights, never from rounded ones. BitFit: Ben Zaken et al. 2022.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from bertd import families

Weight = Callable[[str], torch.Tensor]


def fold(
    shape: families.EncoderShape, weight: Weight, bias: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Folds effective biases (base plus offsets) into the four sites of each layer.

    Args:
        shape: the encoder's shape.
        weight: canonical name -> the original weight [out, in], in the dtype of `bias`.
        bias: canonical name -> effective bias [..., width], for every bias of the encoder. With a
            leading axis of adapters each weight is read once for all of them.

    Returns:
        rows [..., layers, 3h + f] in the order query, output, up, down, and the tail [..., h]: the
        last LayerNorm's bias, to be added to the final hidden states.
    """
    beta = _embedding_bias(shape, weight, bias)
    rows = []
    for index in range(shape.layers):
        name = f"layers.{index}"
        value = bias[f"{name}.value.bias"] + F.linear(beta, weight(f"{name}.value.weight"))
        inner = bias[f"{name}.attention_norm.bias"]
        rows.append(
            torch.cat(
                (
                    bias[f"{name}.query.bias"] + F.linear(beta, weight(f"{name}.query.weight")),
                    bias[f"{name}.output.bias"]
                    + F.linear(value, weight(f"{name}.output.weight"))
                    + beta,
                    bias[f"{name}.up.bias"] + F.linear(inner, weight(f"{name}.up.weight")),
                    bias[f"{name}.down.bias"] + inner,
                ),
                dim=-1,
            )
        )
        beta = bias[f"{name}.ffn_norm.bias"]
    return torch.stack(rows, dim=-2), beta


def _embedding_bias(
    shape: families.EncoderShape, weight: Weight, bias: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What the first layer's input carries; ELECTRA projects after its embedding LayerNorm."""
    beta = bias["embeddings.norm.bias"]
    if shape.embedding == shape.hidden:
        return beta
    return F.linear(beta, weight("embeddings.project.weight")) + bias["embeddings.project.bias"]
