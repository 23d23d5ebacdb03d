"""The bytes of a weight are where the layout says, and quantising loses no more than it must."""

import mmap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.kernels import layout

SIZES = st.integers(1, 200)
PRECISIONS = st.sampled_from(sorted(layout.ELEMENTS))


def weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Seeded N(0, 1) values."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def expected(w: torch.Tensor, precision: str) -> torch.Tensor:
    """What the bytes of a weight hold, scaled: int8 turned, all rounded; found without a layout."""
    if precision == "int8":
        turned = layout.rotate(w)
        scale = turned.abs().amax(1, keepdim=True) / 127
        return (turned / scale).round() * scale
    return w.to(layout.DTYPES[precision]).float()


@settings(max_examples=60, deadline=None)
@given(rows=SIZES, columns=SIZES, precision=PRECISIONS)
def test_unpacking_gives_back_what_was_packed(rows: int, columns: int, precision: str) -> None:
    """Whatever the shape, the bytes hold the rounded weight and nothing else."""
    w = weight(rows, columns)
    packed = layout.pack(w, precision)
    assert packed.nbytes == layout.size_bytes(precision, rows, columns)
    assert packed.nbytes % layout.ALIGNMENT_BYTES == 0
    assert packed.address % layout.ALIGNMENT_BYTES == 0
    held = expected(w, precision)
    if precision == "int8":
        held = layout.rotate(held)  # its own inverse
    assert torch.equal(layout.unpack(packed), held)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 5), columns=SIZES)
def test_rotation_leaves_products_as_they_are(rows: int, columns: int) -> None:
    """Turning both sides changes no product, and turning twice changes nothing."""
    x, w = weight(rows, columns, 3), weight(7, columns, 4)
    torch.testing.assert_close(layout.rotate(layout.rotate(x)), x, rtol=1e-5, atol=1e-6)
    turned = layout.rotate(x) @ layout.rotate(w).T
    torch.testing.assert_close(turned, x @ w.T, rtol=1e-4, atol=1e-4)


def test_rotation_spreads_an_outlier() -> None:
    """One loud channel becomes 128 quiet ones, so its neighbours keep more of their levels."""
    w = weight(4, 128) * 0.02
    w[:, 9] = 10.0
    assert layout.rotate(w).abs().amax() < 1.5
    assert torch.equal(layout.rotate(w[:, :100]), w[:, :100])  # fills no block


@settings(max_examples=40, deadline=None)
@given(rows=SIZES, columns=SIZES, precision=PRECISIONS, data=st.data())
def test_every_value_lies_where_the_layout_says(
    rows: int, columns: int, precision: str, data: st.DataObject
) -> None:
    """W[n, k] is found by arithmetic on plain bytes, as native code finds it."""
    w = weight(rows, columns, 1)
    plain = layout.pack(w, precision).data.numpy().tobytes()
    n = data.draw(st.integers(0, rows - 1))
    k = data.draw(st.integers(0, columns - 1))
    e = layout.ELEMENTS[precision]
    groups = -(-columns // e)
    start = (((n // 64) * groups + k // e) * 64 + n % 64) * 4 + (k % e) * (4 // e)
    found = torch.frombuffer(
        bytearray(plain[start : start + 4 // e]), dtype=layout.DTYPES[precision]
    ).float()
    if precision == "int8":
        behind = -(-rows // 64) * groups * 64 * 4
        found *= float(np.frombuffer(plain, np.float32, 1, behind + 4 * n)[0])
    assert torch.equal(found[0], expected(w, precision)[n, k])


@settings(max_examples=30, deadline=None)
@given(rows=SIZES, columns=SIZES, precision=PRECISIONS)
def test_padding_is_zero(rows: int, columns: int, precision: str) -> None:
    """What lies beyond N and K adds nothing to a product, and its scale is one."""
    packed = layout.pack(weight(rows, columns, 2), precision)
    assert packed.panels.count_nonzero() == layout.values(packed).count_nonzero()
    if precision == "int8":
        assert (packed.scale[rows:] == 1.0).all()
        assert (packed.total[rows:] == 0.0).all()


def test_int8_scales_and_totals() -> None:
    """Each output channel has its own scale, and the sum of what it holds."""
    packed = layout.pack(weight(70, 33), "int8")
    whole = layout.values(packed)
    assert whole.dtype == torch.int8
    assert int(whole.abs().amax()) == 127
    assert torch.equal(packed.total[:70], whole.sum(1).float())


@pytest.mark.parametrize("value", [0.0, 1e-44, -1e-40, 1e4, -3e38])
def test_constant_channels_survive(value: float) -> None:
    """A channel of zeros, of the smallest numbers there are, or of huge ones stays finite."""
    w = weight(3, 8)
    w[1] = value
    found = layout.unpack(layout.pack(w, "int8"))
    assert found.isfinite().all()
    torch.testing.assert_close(found[1], w[1], rtol=1e-2, atol=1e-38)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    """A weight that cannot be scaled is refused, never turned into noise."""
    w = weight(3, 8)
    w[2, 5] = value
    with pytest.raises(errors.BadArtifact, match="no numbers"):
        layout.pack(w, "int8")


def test_bytes_are_read_in_place() -> None:
    """A mapping's bytes are the weight: nothing is copied, and what changes there changes it."""
    packed = layout.pack(weight(65, 5), "bf16")
    mapped = mmap.mmap(-1, packed.nbytes)
    mapped[:] = packed.data.numpy().tobytes()
    buffer = torch.frombuffer(mapped, dtype=torch.uint8)
    again = layout.from_bytes(buffer, "bf16", 65, 5)
    assert again.address == buffer.data_ptr()
    assert torch.equal(layout.unpack(again), layout.unpack(packed))
    mapped[:2] = b"\x80\x3f"
    assert layout.unpack(again)[0, 0] == 1.0


@pytest.mark.parametrize("change", [-1, 1, -64, 64])
def test_bytes_of_another_size_are_refused(change: int) -> None:
    """A file that was cut or belongs to another shape is refused before any kernel reads it."""
    size = layout.size_bytes("int8", 64, 8)
    with pytest.raises(errors.BadArtifact, match=f"must have {size} bytes, got {size + change}"):
        layout.from_bytes(torch.empty(size + change, dtype=torch.uint8), "int8", 64, 8)


def test_unaligned_bytes_are_refused() -> None:
    """A buffer that begins in the middle of a cache line is a bug of whoever mapped it."""
    size = layout.size_bytes("fp32", 64, 8)
    with pytest.raises(errors.Bug, match="multiple of 64"):
        layout.from_bytes(torch.empty(size + 4, dtype=torch.uint8)[4:], "fp32", 64, 8)


def test_bytes_are_bytes() -> None:
    """Floats, and bytes with gaps between them, are no buffer."""
    size = layout.size_bytes("fp32", 64, 8)
    for buffer in (torch.empty(size // 4), torch.empty(2 * size, dtype=torch.uint8)[::2]):
        with pytest.raises(errors.Bug, match="plain bytes"):
            layout.from_bytes(buffer, "fp32", 64, 8)


@pytest.mark.parametrize(("precision", "rows", "columns"), [("fp16", 1, 1), ("int8", 0, 1)])
def test_no_layout(precision: str, rows: int, columns: int) -> None:
    """An unknown precision or an empty weight has no size."""
    with pytest.raises(errors.Bug, match="no layout"):
        layout.size_bytes(precision, rows, columns)


def test_only_int8_has_scales() -> None:
    """Nothing lies behind the panels of a float weight."""
    with pytest.raises(errors.Bug, match="no scales"):
        _ = layout.pack(weight(4, 4), "bf16").scale


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=SIZES,
    low=st.floats(-1e3, 1e3, width=32),
    span=st.floats(0, 1e4, width=32),
)
def test_tokens_come_back_within_half_a_step(
    rows: int, columns: int, low: float, span: float
) -> None:
    """Every value of every turned token is met to its token's scale, whatever its range."""
    x = low + span * torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    q, scale, zero = layout.quantise_tokens(x)
    assert q.dtype == torch.uint8
    back = (q.float() - zero[:, None]) * scale[:, None]
    # The zero point is rounded too, so the ends of the range may lie half a step outside it.
    turned = layout.rotate(x)
    assert ((back - turned).abs() <= scale[:, None] * 1.001 + 1e-30).all()
    assert torch.equal(zero, zero.round())


def test_special_tokens() -> None:
    """Zeros, constants, one outlier and numbers near the smallest keep their meaning."""
    rows = torch.zeros(6, 8)
    rows[1], rows[2], rows[4], rows[5] = 3.0, -3.0, 1e-44, 1e-40
    rows[3, 2] = 1e4
    q, scale, zero = layout.quantise_tokens(rows)
    back = (q.float() - zero[:, None]) * scale[:, None]
    assert scale.isfinite().all()
    assert (scale > 0).all()
    torch.testing.assert_close(back, rows, rtol=1e-6, atol=1e-39)
    assert zero.tolist() == [0.0, 0.0, 255.0, 0.0, 0.0, 0.0]


def test_a_token_does_not_see_its_neighbours() -> None:
    """A token quantises alike alone and beside a token of outliers."""
    x = weight(4, 32)
    loud = torch.cat([x, torch.full((1, 32), 1e6)])
    for alone, together in zip(
        layout.quantise_tokens(x), layout.quantise_tokens(loud), strict=True
    ):
        assert torch.equal(alone, together[:4])
