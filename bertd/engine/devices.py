"""Where a base runs: the CPU, or a GPU that is asked for by name and that this worker finds.

The front has no torch to look.
"""

import time
from collections.abc import Callable

import torch

from bertd import errors
from bertd.model import cuda, encoder, fp8

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
PEAK_WIDTH = 8192  # of square matrices, which keep a whole GPU busy
PEAK_REPEATS = 10


def find(declared: str, precision: str) -> torch.device:
    """The device for a declaration: `auto`, `cpu`, `cuda` or `cuda:1`.

    `auto` is the CPU, whatever the machine has: it takes no path that has not been measured.

    Raises:
        BadArtifact: reason `NoCuda` where there is no such GPU, `NoSuchPrecision` where it does not
            compute in `precision`.
    """
    if declared in (AUTO, CPU):
        return torch.device(CPU)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(declared.partition(":")[2] or 0)
    if index >= count:
        raise errors.BadArtifact(
            f"`offload.device` is '{declared}', but torch {torch.__version__} finds "
            f"{f'only {count}' if count else 'no'} GPU(s)",
            reason="NoCuda",
            hint="install the driver and a torch built for CUDA, or set `offload.device: cpu`",
        )
    _check_precision(precision, declared, torch.cuda.get_device_capability(index))
    return torch.device(CUDA, index)


def precisions(device: torch.device) -> tuple[str, ...]:
    """What `device` computes in."""
    return cuda.PRECISIONS if device.type == CUDA else encoder.PRECISIONS


def peak(device: torch.device) -> dict[str, float]:
    """Operations per second of one large product on a GPU, by precision, the best of several."""
    x_TK = torch.randn(PEAK_WIDTH, PEAK_WIDTH, device=device, dtype=torch.bfloat16)
    products: dict[str, Callable[[], torch.Tensor]] = {"bf16": lambda: x_TK @ x_TK}
    if torch.cuda.get_device_capability(device) >= fp8.CAPABILITY:
        weight, (values_TK, scale_T1) = fp8.linear(x_TK), fp8.quantise(x_TK)
        products["fp8"] = lambda: weight.product(values_TK, scale_T1)
    operations = 2.0 * PEAK_WIDTH**3
    return {name: operations / _seconds(product, device) for name, product in products.items()}


def lane_peak(device: torch.device) -> dict[str, float]:
    """What one of the lanes that share a GPU can do of its `peak`."""
    return {name: rate / cuda.LANES for name, rate in peak(device).items()}


@torch.inference_mode()
def _seconds(product: Callable[[], torch.Tensor], device: torch.device) -> float:
    product()
    found = []
    for _ in range(PEAK_REPEATS):
        torch.cuda.synchronize(device)
        began_s = time.perf_counter()
        product()
        torch.cuda.synchronize(device)
        found.append(time.perf_counter() - began_s)
    return min(found)


def _check_precision(precision: str, declared: str, capability: tuple[int, int]) -> None:
    if precision == "fp8" and capability < fp8.CAPABILITY:
        raise errors.BadArtifact(
            f"`precision` is 'fp8', which this GPU has not: its capability is "
            f"{capability[0]}.{capability[1]}, and fp8 begins at 8.9",
            reason="NoSuchPrecision",
            hint="set `precision: bf16`",
        )
    if precision not in (AUTO, *cuda.PRECISIONS):
        raise errors.BadArtifact(
            f"`precision` is '{precision}', which only a CPU has, and `offload.device` is "
            f"'{declared}'",
            reason="NoSuchPrecision",
            hint="set `precision: bf16` or 'fp8', or `offload.device: cpu`",
        )
