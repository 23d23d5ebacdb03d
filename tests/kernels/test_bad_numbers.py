"""Outliers, zeros, constants and single tokens: every kernel stays near fp64 arithmetic."""

from collections.abc import Callable

import pytest
import torch

from bertd.kernels import eager, layout, stack
from tests.kernels import libraries, making

KERNELS = ("eager", *libraries.CAPS)
# Of the largest value, against the same layers in fp32.
TOLERANCES = {"fp32": 1e-5, "bf16": 5e-2, "int8": 1e-1}
LENGTHS = [4, 1, 9]
Spoil = Callable[[list[dict[str, torch.Tensor]], torch.Tensor], None]


def outlier_column(parts: list[dict[str, torch.Tensor]], x_TD: torch.Tensor) -> None:
    """One input of the FFN is weighted 1e4, as outlier features of large models are."""
    parts[0]["up"][:, 3] = 1e4


def outlier_channel(parts: list[dict[str, torch.Tensor]], x_TD: torch.Tensor) -> None:
    """One output of attention is 1e4 times the others."""
    parts[0]["output"][5] *= 1e4


def zeros(parts: list[dict[str, torch.Tensor]], x_TD: torch.Tensor) -> None:
    """Whole tokens are zero."""
    x_TD[2:6] = 0.0


def constants(parts: list[dict[str, torch.Tensor]], x_TD: torch.Tensor) -> None:
    """Whole tokens are one number; another has only the smallest numbers there are."""
    x_TD[0], x_TD[1], x_TD[4], x_TD[7] = 2.5, -2.5, 1e-3, 1e-42


def loud_token(parts: list[dict[str, torch.Tensor]], x_TD: torch.Tensor) -> None:
    """One value of one token is 1e4."""
    x_TD[3, 7] = 1e4


def dead_weights(parts: list[dict[str, torch.Tensor]], x_TD: torch.Tensor) -> None:
    """Whole channels of weights are zero, as pruning leaves them."""
    for layer in parts:
        layer["up"][10:90] = 0.0
        layer["down"][:] = 0.0


def runner(kernels: str, made_of: stack.Stack) -> stack.Runner:
    """Torch's twin, or a native library."""
    if kernels == "eager":
        return eager.Twin(made_of)
    return libraries.opened(kernels).prepare(made_of)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("precision", layout.ELEMENTS)
@pytest.mark.parametrize(
    "spoil", [outlier_column, outlier_channel, zeros, constants, loud_token, dead_weights]
)
def test_bad_numbers(kernels: str, precision: str, spoil: Spoil) -> None:
    """What real checkpoints bring at worst is finite and near the same layers in fp32."""
    case = making.case("fp32", LENGTHS)
    generator = torch.Generator().manual_seed(0)
    parts = making.weights(case.made_of.shape, generator)
    spoil(parts, case.x_TD)
    exact = making.built(case.made_of.shape, parts, "fp32", generator.manual_seed(1))
    made_of = making.built(case.made_of.shape, parts, precision, generator.manual_seed(1))
    rows_SLW = case.rows_SLW.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    expected, got = case.x_TD.clone(), case.x_TD.clone()
    eager.Twin(exact).run(expected, case.batch, case.rows_SLW)
    runner(kernels, made_of).run(got, case.batch, rows_SLW, 1)
    assert got.isfinite().all()
    making.close(got, expected, TOLERANCES[precision])
