"""The bytes of a linear weight W [N, K] (y = x Wᵀ): the same in memory, in a file, in a mapping.

One contiguous buffer, 64-byte aligned. N is padded to Np = 64 ceil(N / 64) with zeros, K to whole
groups of four bytes with zeros, little endian:

    panels   [Np/64][Kg][64][4 bytes]   Kg = ceil(K / e), e = 1 (fp32), 2 (bf16), 4 (int8) values;
                                        panel p, group g, column c holds W[64 p + c, g e : g e + e]
    scale    float32 [Np]               int8 only: max |W[n]| / 127, or 1 for a column of zeros
    total    float32 [Np]               int8 only: the sum of q[n, k] over k, exact in fp32

A panel is what one block of vector registers computes, and four bytes are what a dot product
instruction eats, so kernels read the buffer in order, from start to end, in place.

int8 is symmetric per output channel for weights, and asymmetric per token, measured when it comes,
for activations: a token's answer never depends on the other tokens of a batch. All rounding is to
the nearest, ties to even, as processors do it. Weights and activations are both rotated along K
before they are rounded (`rotate`), which leaves their product as it is and takes two fifths of
the error away: outliers of single channels are spread over 128. QuaRot: Ashkboos et al. 2024.

Shapes: N outputs, K inputs, T tokens.
"""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bertd import errors

PANEL = 64
GROUP_BYTES = 4
ALIGNMENT_BYTES = 64
ELEMENTS = {"fp32": 1, "bf16": 2, "int8": 4}  # in a group of four bytes
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
ROTATED = 128  # neighbouring columns that are rotated together
WEIGHT_LEVELS = 127.0
TOKEN_LEVELS = 255.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A weight of `rows` N by `columns` K in `precision`; `data` holds its plain bytes."""

    precision: str
    rows: int
    columns: int
    data: torch.Tensor  # uint8 [size_bytes(...)]

    @property
    def nbytes(self) -> int:
        """Bytes it occupies."""
        return self.data.nbytes

    @property
    def address(self) -> int:
        """Where the bytes begin; valid as long as this object lives."""
        return self.data.data_ptr()

    @property
    def panels(self) -> torch.Tensor:
        """[Np/64, Kg, 64, e], a view in the precision's own dtype."""
        values = self.data[: _panel_bytes(self.precision, self.rows, self.columns)]
        return values.view(DTYPES[self.precision]).view(
            _padded(self.rows) // PANEL, -1, PANEL, ELEMENTS[self.precision]
        )

    @property
    def scale(self) -> torch.Tensor:
        """[Np] fp32, a view; int8 only."""
        return self._behind_panels()[: _padded(self.rows)]

    @property
    def total(self) -> torch.Tensor:
        """[Np] fp32, a view; int8 only."""
        return self._behind_panels()[_padded(self.rows) :]

    def _behind_panels(self) -> torch.Tensor:
        if self.precision != "int8":
            raise errors.Bug(f"a weight in {self.precision} has no scales")
        start = _panel_bytes(self.precision, self.rows, self.columns)
        return self.data[start:].view(torch.float32)


def size_bytes(precision: str, rows: int, columns: int) -> int:
    """Bytes of a weight; a multiple of 64, so that weights lie end to end without losing alignment.

    Raises:
        Bug: there is no such precision or shape.
    """
    if precision not in ELEMENTS or rows < 1 or columns < 1:
        raise errors.Bug(f"no layout for a weight [{rows}, {columns}] in {precision!r}")
    scales = 2 * _padded(rows) * torch.float32.itemsize if precision == "int8" else 0
    return _panel_bytes(precision, rows, columns) + scales


def pack(weight_NK: torch.Tensor, precision: str) -> Linear:
    """Lays out an fp32 weight, rounding or quantising it to `precision`.

    Raises:
        BadArtifact: int8 of a weight that is not finite.
    """
    rows, columns = weight_NK.shape
    data = torch.empty(size_bytes(precision, rows, columns), dtype=torch.uint8)
    linear = Linear(precision=precision, rows=rows, columns=columns, data=data)
    if precision == "int8":
        values_NK, scale_N = quantise_weight(weight_NK.float())
        linear.scale.fill_(1.0)[:rows] = scale_N
        linear.total.zero_()[:rows] = values_NK.sum(dim=1)
    else:
        values_NK = weight_NK.to(DTYPES[precision])
    groups = linear.panels.shape[1]
    columns_padded = groups * ELEMENTS[precision]
    if (rows % PANEL, columns_padded) != (0, columns):
        values_NK = F.pad(values_NK, (0, columns_padded - columns, 0, _padded(rows) - rows))
    by_column = values_NK.reshape(-1, PANEL, groups, ELEMENTS[precision])
    linear.panels.copy_(by_column.transpose(1, 2))
    return linear


def from_bytes(buffer: torch.Tensor, precision: str, rows: int, columns: int) -> Linear:
    """A weight in bytes that lie ready, mapped ones for instance; copies nothing.

    Raises:
        BadArtifact: `buffer` has another size than the weight.
        Bug: `buffer` is no plain aligned run of bytes.
    """
    needed = size_bytes(precision, rows, columns)
    if buffer.dtype != torch.uint8 or buffer.dim() != 1 or not buffer.is_contiguous():
        raise errors.Bug(f"weights are read from plain bytes, not from {buffer.dtype}")
    if buffer.nbytes != needed:
        raise errors.BadArtifact(
            f"a weight [{rows}, {columns}] in {precision} must have {needed} bytes, "
            f"got {buffer.nbytes}",
            reason="BadLayout",
        )
    if buffer.data_ptr() % ALIGNMENT_BYTES:
        raise errors.Bug(f"weights must begin at a multiple of {ALIGNMENT_BYTES} bytes")
    return Linear(precision=precision, rows=rows, columns=columns, data=buffer)


def values(linear: Linear) -> torch.Tensor:
    """[N, K] as stored: fp32, bf16, or int8, rotated and before its scale."""
    by_column = linear.panels.transpose(1, 2).reshape(_padded(linear.rows), -1)
    return by_column[: linear.rows, : linear.columns].contiguous()


def unpack(linear: Linear) -> torch.Tensor:
    """[N, K] in fp32, scaled: what the weight is worth."""
    found_NK = values(linear).float()
    if linear.precision == "int8":
        found_NK *= linear.scale[: linear.rows, None]
        return rotate(found_NK)
    return found_NK


def rotate(x_TK: torch.Tensor) -> torch.Tensor:
    """Each whole block of 128 columns times the orthonormal Hadamard matrix, its own inverse.

    Columns that fill no block stay as they are.
    """
    whole = x_TK.shape[1] // ROTATED * ROTATED
    turned = x_TK[:, :whole].reshape(-1, ROTATED) @ _hadamard()
    return torch.cat((turned.view(len(x_TK), whole), x_TK[:, whole:]), dim=1)


@functools.cache
def _hadamard() -> torch.Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < ROTATED:
        matrix = torch.cat((torch.cat((matrix, matrix)), torch.cat((matrix, -matrix))), dim=1)
    return matrix / math.sqrt(ROTATED)


def quantise_weight(weight_NK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 [N, K] in [-127, 127] of the rotated weight, and fp32 scales [N].

    Raises:
        BadArtifact: a value is infinite or no number.
    """
    turned_NK = rotate(weight_NK)
    highest_N = turned_NK.abs().amax(dim=1)
    if not bool(highest_N.isfinite().all()):
        raise errors.BadArtifact(
            "a weight has values that are infinite or no numbers", reason="NotFinite"
        )
    scale_N = _or_one(highest_N / WEIGHT_LEVELS)
    levels_NK = (turned_NK / scale_N[:, None]).round_().clamp_(-WEIGHT_LEVELS, WEIGHT_LEVELS)
    return levels_NK.to(torch.int8), scale_N


def quantise_tokens(x_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Asymmetric u8 of each rotated token by its own range, which always contains zero.

    With x rotated, `low = min(0, min x)`, `high = max(0, max x)`: scale s = (high - low) / 255 (1
    where that is 0), zero point z = round(-low / s), q = clamp(round(x / s) + z, 0, 255).

    Returns:
        q u8 [T, K]; s fp32 [T]; z fp32 [T], whole numbers from 0 to 255.
    """
    turned_TK = rotate(x_TK.float())
    low_T, high_T = torch.aminmax(turned_TK, dim=1)
    low_T = low_T.clamp_(max=0.0)
    scale_T = _or_one((high_T.clamp_(min=0.0) - low_T) / TOKEN_LEVELS)
    zero_T = (-low_T / scale_T).round_().clamp_(0.0, TOKEN_LEVELS)
    levels_TK = (turned_TK / scale_T[:, None]).round_().add_(zero_T[:, None])
    return levels_TK.clamp_(0.0, TOKEN_LEVELS).to(torch.uint8), scale_T, zero_T


def _or_one(scale: torch.Tensor) -> torch.Tensor:
    """A scale of 0, also one that underflowed, is 1: zeros stay zeros, and nothing divides by 0."""
    return torch.where(scale > 0, scale, 1.0)


def _padded(rows: int) -> int:
    return -(-rows // PANEL) * PANEL


def _panel_bytes(precision: str, rows: int, columns: int) -> int:
    return _padded(rows) * -(-columns // ELEMENTS[precision]) * GROUP_BYTES
