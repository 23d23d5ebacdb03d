"""What only a GPU can prove; skipped where torch finds none (`make gpu` runs it where it does)."""

import pytest
import torch

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a GPU, and torch finds no CUDA device"
    ),
]


def needs_fp8() -> None:
    """Skips the calling test on a GPU without fp8 products."""
    capability = torch.cuda.get_device_capability()
    if capability < (8, 9):
        pytest.skip(f"needs fp8 products, and this GPU's capability is {capability}")
