"""The eager twin computes what the precisions promise, on any processor torch runs on."""

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _python_dispatch

from bertd.kernels import eager, layout
from tests.kernels import making

SIZES = st.integers(1, 150)
# Of the largest value. fp32: rounding of sums. bf16: two operands and torch's result at 2^-9 each.
# int8: half a level of 127 per weight and of 255 per activation, averaged over the sum.
TOLERANCES = {"fp32": 1e-5, "bf16": 1e-2, "int8": 2.5e-2}


class Recorder(_python_dispatch.TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def exact_int8(linear: layout.Linear, x_TK: torch.Tensor) -> torch.Tensor:
    """The formula of the layout in whole numbers and fp64."""
    q, scale, zero = layout.quantise_tokens(x_TK)
    sums = (q.long() - zero.long()[:, None]) @ layout.values(linear).long().t()
    return sums.double() * scale.double()[:, None] * linear.scale[: linear.rows].double()


@settings(max_examples=60, deadline=None)
@given(tokens=st.integers(1, 40), rows=SIZES, columns=SIZES, exact=st.booleans())
def test_int8_products_are_the_formula(tokens: int, rows: int, columns: int, exact: bool) -> None:
    """Whatever the shape, and by either route, integers come out as integer arithmetic has them."""
    generator = torch.Generator().manual_seed(rows * columns)
    linear = layout.pack(torch.randn(rows, columns, generator=generator), "int8")
    x = torch.randn(tokens, columns, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager, "int_mm_is_exact", lambda: exact)
        product = eager.Product.of(linear)
    assert product.weight.dtype == (torch.int8 if exact else torch.float32)
    making.close(product(x), exact_int8(linear, x), 1e-5)


@pytest.mark.parametrize("precision", layout.ELEMENTS)
@pytest.mark.parametrize(("tokens", "rows", "columns"), [(1, 3, 5), (7, 130, 96), (33, 64, 257)])
def test_products_are_near_the_weights(
    precision: str, tokens: int, rows: int, columns: int
) -> None:
    """Every precision is near the fp64 product of the original weight."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(rows, columns, generator=generator)
    x = torch.randn(tokens, columns, generator=generator)
    got = eager.Product.of(layout.pack(w, precision))(x)
    assert got.dtype == torch.float32
    making.close(got, x.double() @ w.double().t(), TOLERANCES[precision])


def test_int8_never_takes_the_path_of_signed_activations() -> None:
    """A layer in int8 runs `_int_mm`, and no operator of oneDNN's quantised linear layers."""
    case = making.case("int8", [5, 5, 20])
    twin = eager.Twin(case.made_of)
    with Recorder() as recorder:
        case.run(twin)
    assert sum("_int_mm" in name for name in recorder.seen) == 4 * case.made_of.shape.layers
    assert not [name for name in recorder.seen if "qlinear" in name or "onednn" in name]


def test_processors_without_vnni_are_found_out() -> None:
    """Where oneDNN's signed product saturates, int8 is computed another way, and rightly."""
    script = """
        import torch
        from bertd.kernels import eager, layout
        w, x = torch.ones(64, 768), torch.ones(20, 768)
        x[:, 0] = -1.0
        y = eager.Product.of(layout.pack(w, "int8"))(x)
        assert (y - 766.0).abs().max() < 8.0, y
    """
    weak = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=weak, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("precision", layout.ELEMENTS)
def test_memory_is_told(precision: str) -> None:
    """What the twin holds is what it says: torch's form of the weights, and no panels beside it."""
    case = making.case(precision, [3])
    shape = case.made_of.shape
    values = shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.ffn)
    channels = shape.layers * (5 * shape.hidden + shape.ffn)
    size = layout.DTYPES[precision].itemsize
    expected = values * size + 4 * 2 * shape.layers * shape.hidden
    if precision == "int8":
        expected = values * (1 if eager.int_mm_is_exact() else 4) + 8 * channels
        expected += 4 * 2 * shape.layers * shape.hidden
    assert eager.Twin(case.made_of).weight_bytes == expected


@pytest.mark.parametrize("precision", layout.ELEMENTS)
def test_attention_may_be_in_bf16(precision: str) -> None:
    """Attention in bf16 costs little, and changes nothing but attention."""
    case = making.case(precision, [9, 9, 30], relative_buckets=32)
    exact = case.run(eager.Twin(case.made_of, torch.float32))
    rounded = case.run(eager.Twin(case.made_of, torch.bfloat16))
    assert not torch.equal(exact, rounded)
    making.close(rounded, exact, 4e-2)
