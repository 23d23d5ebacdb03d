"""What layers are made of and what they run on: the words that native code and its twin share.

Shape suffixes: T tokens of all rows, D hidden width, F FFN width, H heads, S tokens of the longest
row there may be, L layers, B rows of a batch, i rows of the adapter table that a batch reads, W
folded biases of a layer, S of `rows_SLW` slots of the table.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from bertd import families
from bertd.kernels import layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """Where one layer's folded biases lie in a row of 3h + f values: query, output, up, down."""

    query: slice
    output: slice
    up: slice
    down: slice

    @classmethod
    def of(cls, shape: families.EncoderShape) -> "Sites":
        """The places for `shape`; the row's width is `row_width(shape)`."""
        h, f = shape.hidden, shape.ffn
        return cls(
            query=slice(0, h),
            output=slice(h, 2 * h),
            up=slice(2 * h, 2 * h + f),
            down=slice(2 * h + f, 3 * h + f),
        )


def row_width(shape: families.EncoderShape) -> int:
    """Folded bias values of one layer: 3h + f, which is 7h where f = 4h."""
    return 3 * shape.hidden + shape.ffn


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer's weights; biases live in the adapter table."""

    qkv: layout.Linear  # [3D, D]: query, key, value
    output: layout.Linear  # [D, D]
    up: layout.Linear  # [F, D]
    down: layout.Linear  # [D, F]
    attention_gain_D: torch.Tensor  # fp32
    ffn_gain_D: torch.Tensor  # fp32

    @property
    def nbytes(self) -> int:
        """Bytes of all its weights."""
        parts = (self.qkv, self.output, self.up, self.down)
        return sum(part.nbytes for part in (*parts, self.attention_gain_D, self.ffn_gain_D))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """All layers of an encoder, in one precision.

    `relative_HSS` is fp32 and is added to attention scores (MPNet); None elsewhere.
    """

    shape: families.EncoderShape
    precision: str
    layers: tuple[Layer, ...]
    relative_HSS: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        relative = 0 if self.relative_HSS is None else self.relative_HSS.nbytes
        return relative + sum(layer.nbytes for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`rows` neighbouring rows of `length` tokens each, from token `start` and row `row` on."""

    start: int
    row: int
    rows: int
    length: int

    @property
    def stop(self) -> int:
        """One past the group's last token."""
        return self.start + self.rows * self.length


class Rows(Protocol):
    """What layers need to know of a batch.

    `slot_i` and `biased` say the same as `slots_B`, in fewer steps where all rows share an adapter:
    entry i of `slot_i` reaches the tokens of row i of `biased`.
    """

    @property
    def lengths_B(self) -> list[int]:
        """Tokens of each row."""

    @property
    def slots_B(self) -> list[int]:
        """Slot of each row in the adapter table."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The rows, in order, neighbours of equal length together."""

    @property
    def slot_i(self) -> torch.Tensor:
        """Slots, int64."""

    @property
    def biased(self) -> tuple[Group, ...]:
        """Which tokens the slots reach."""


class Runner(Protocol):
    """A stack that runs; immutable, shared by all lanes."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory that its weights occupy."""

    def run(
        self,
        x_TD: torch.Tensor,
        rows: Rows,
        rows_SLW: torch.Tensor,
        threads: int = 1,
        first_only: bool = False,
    ) -> None:
        """Runs all layers over `x_TD`, in place.

        Args:
            x_TD: fp32 hidden states without their LayerNorm bias, contiguous.
            rows: which tokens belong together.
            rows_SLW: the adapter table, fp32 or bf16; the last two axes are contiguous.
            threads: how many threads compute together.
            first_only: only each row's first token will be read, so the last layer need not
                compute the others, which are then left as anything.
        """


class Library(Protocol):
    """Native code for this machine."""

    @property
    def isa(self) -> str:
        """What it uses of the processor."""

    def prepare(self, stack: Stack) -> Runner:
        """A stack that this library runs; it keeps `stack` and reads its weights in place."""
