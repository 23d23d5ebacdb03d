"""Linear products in fp8: e4m3 values, one scale per token and one per output channel.

On CUDA the product is `torch._scaled_mm` with row-wise scales; elsewhere an fp32 product of the
same rounded values, which tests compare with.

Shapes: T tokens, K inputs, N outputs.
"""

from dataclasses import dataclass

import torch

from bertd import errors

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
SCALE_MIN = 1e-12  # of a token or a channel of zeros
SIZE_MULTIPLE = 16  # of K and N: what the products take
CAPABILITY = (8, 9)  # the first CUDA devices with fp8 products


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """y = x W^T in fp8: `weight_NK` e4m3, `scale_1N` fp32."""

    weight_NK: torch.Tensor
    scale_1N: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and its scales."""
        return self.weight_NK.nbytes + self.scale_1N.nbytes

    def __call__(self, x_TK: torch.Tensor) -> torch.Tensor:
        """[T, K] bf16 -> [T, N] bf16."""
        return self.product(*quantise(x_TK))

    def product(self, values_TK: torch.Tensor, scale_T1: torch.Tensor) -> torch.Tensor:
        """The product of what `quantise` gave: [T, N] bf16."""
        if not values_TK.is_cuda:
            exact_TN = values_TK.float() @ self.weight_NK.float().t()
            return (exact_TN * scale_T1 * self.scale_1N).bfloat16()
        return torch._scaled_mm(
            values_TK,
            self.weight_NK.t(),
            scale_a=scale_T1,
            scale_b=self.scale_1N,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )

    def onto(self, y_TN: torch.Tensor, x_TK: torch.Tensor) -> torch.Tensor:
        """Adds the product to `y_TN`, in place: a row-wise product takes no matrix to add to."""
        y_TN += self(x_TK)
        return y_TN


def linear(weight_NK: torch.Tensor) -> Linear:
    """Rounds a weight, each output channel with its own scale.

    Raises:
        BadArtifact: its sizes are not what fp8 products take.
    """
    if any(size % SIZE_MULTIPLE for size in weight_NK.shape):
        raise errors.BadArtifact(
            f"`precision` is 'fp8', but a weight of this base is {list(weight_NK.shape)}, and fp8 "
            f"products take multiples of {SIZE_MULTIPLE}",
            reason="NoSuchPrecision",
            hint="set `precision: bf16`",
        )
    values_NK, scale_N1 = quantise(weight_NK)
    return Linear(weight_NK=values_NK, scale_1N=scale_N1.t().contiguous())


def quantise(x_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values e4m3 [T, K] and scales fp32 [T, 1] with x = values * scale; zeros stay zeros."""
    largest_T1 = torch.linalg.vector_norm(
        x_TK, float("inf"), dim=1, keepdim=True, dtype=torch.float32
    )
    scale_T1 = largest_T1.mul_(1 / FP8_MAX).clamp_(min=SCALE_MIN)
    return (x_TK / scale_T1).to(FP8), scale_T1
