"""MPNet's relative position bias of attention scores (Raffel et al. 2020, T5, section 2.1)."""

import math

import torch
import torch.nn.functional as F

from bertd import families

MAX_DISTANCE_TOKENS = 128  # MPNet, as T5


def relative_bias(shape: families.EncoderShape, weight: torch.Tensor) -> torch.Tensor:
    """The bias [heads, S, S] of the longest row; shorter rows read its corner.

    Only the distance of two tokens counts, so the corner is right for every length.

    Args:
        shape: the encoder's shape.
        weight: `relative.weight` [buckets, heads].
    """
    position_S = torch.arange(shape.max_tokens)
    distance_SS = position_S[None, :] - position_S[:, None]
    bucket_SS = _bucket(distance_SS, shape.relative_buckets)
    return F.embedding(bucket_SS, weight.float()).permute(2, 0, 1).contiguous()


def _bucket(distance: torch.Tensor, buckets: int) -> torch.Tensor:
    """T5's bidirectional buckets: near distances exactly, far ones on a log scale."""
    half = buckets // 2
    exact = half // 2
    back = distance.abs()
    scale = math.log(MAX_DISTANCE_TOKENS / exact)
    far = exact + (back.clamp(min=1).float() / exact).log().div(scale).mul(half - exact).long()
    near_or_far = torch.where(back < exact, back, far.clamp(max=half - 1))
    return near_or_far + torch.where(distance > 0, half, 0)
