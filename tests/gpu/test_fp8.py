"""The GPU's fp8 product equals its twin, for every number of tokens."""

import pytest
import torch

from bertd.model import fp8
from tests import gpu

pytestmark = gpu.needs_gpu


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 64, 100, 255, 256, 257, 8352])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 192), (768, 2304), (3072, 768)])
def test_it_equals_its_twin(tokens: int, inputs: int, outputs: int) -> None:
    """Row-wise products of any number of tokens agree with fp32 products of the same values."""
    gpu.needs_fp8()
    generator = torch.Generator().manual_seed(tokens)
    x_TK = torch.randn(tokens, inputs, generator=generator).bfloat16()
    weight = fp8.linear(torch.randn(outputs, inputs, generator=generator))
    expected = weight(x_TK).float()
    there = fp8.Linear(weight_NK=weight.weight_NK.cuda(), scale_1N=weight.scale_1N.cuda())
    got = there(x_TK.cuda()).float().cpu()
    assert float((got - expected).abs().max() / expected.abs().max()) < 0.02
