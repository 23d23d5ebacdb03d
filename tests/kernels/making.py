"""Seeded stacks of layers, batches and adapter tables, without any checkpoint."""

from dataclasses import dataclass

import numpy as np
import torch

from bertd import families
from bertd.kernels import layout, stack
from bertd.model import packing

PARTS = ("qkv", "output", "up", "down")


@dataclass(frozen=True)
class Case:
    """What a runner runs, and what it needs to do so."""

    made_of: stack.Stack
    x_TD: torch.Tensor
    batch: packing.PackedBatch
    rows_SLW: torch.Tensor

    def run(self, runner: stack.Runner, threads: int = 1, first_only: bool = False) -> torch.Tensor:
        """The runner's answer; `x_TD` stays what it is."""
        y_TD = self.x_TD.clone()
        runner.run(y_TD, self.batch, self.rows_SLW, threads, first_only)
        return y_TD

    def first_tokens(self, y_TD: torch.Tensor) -> torch.Tensor:
        """What an answer says of the first token of each row."""
        return torch.stack([row_SD[0] for row_SD in y_TD.split(self.batch.lengths_B)])


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """No value differs by more than `tolerance` of the largest one."""
    scale = float(expected.abs().max().clamp(min=1e-30))
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0.0, atol=tolerance * scale)


def shape(**sizes: object) -> families.EncoderShape:
    """A small BERT; options replace its sizes."""
    fields: dict[str, object] = {
        "family": "bert",
        "hidden": 96,
        "layers": 2,
        "heads": 4,
        "ffn": 200,
        "vocab": 9,
        "positions": 64,
        "position_offset": 0,
        "token_types": 2,
        "embedding": 96,
        "norm_eps": 1e-12,
        "activation": "gelu",
        "relative_buckets": 0,
    }
    return families.EncoderShape(**{**fields, **sizes})  # type: ignore[arg-type]


def weights(of: families.EncoderShape, generator: torch.Generator) -> list[dict[str, torch.Tensor]]:
    """The four fp32 weights of every layer; sums stay near one in size, scores spread widely."""
    d, f = of.hidden, of.ffn

    def normal(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    return [
        {"qkv": 1.5 * normal(3 * d, d), "output": normal(d, d), "up": normal(f, d)}
        | {"down": normal(d, f)}
        for _ in range(of.layers)
    ]


def built(
    of: families.EncoderShape,
    parts: list[dict[str, torch.Tensor]],
    precision: str,
    generator: torch.Generator,
) -> stack.Stack:
    """A stack of these weights, with gains near one."""

    def gain() -> torch.Tensor:
        return 1.0 + 0.3 * torch.randn(of.hidden, generator=generator)

    relative_HSS = None
    if of.relative_buckets:
        relative_HSS = torch.randn(of.heads, of.positions, of.positions, generator=generator)
    return stack.Stack(
        shape=of,
        precision=precision,
        layers=tuple(
            stack.Layer(
                **{name: layout.pack(w, precision) for name, w in layer.items()},
                attention_gain_D=gain(),
                ffn_gain_D=gain(),
            )
            for layer in parts
        ),
        relative_HSS=relative_HSS,
    )


def case(
    precision: str,
    lengths: list[int],
    slots: list[int] | None = None,
    *,
    seed: int = 0,
    **sizes: object,
) -> Case:
    """Random everything; rows of `lengths` use `slots` of a table of 8."""
    of = shape(**sizes)
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    made_of = built(of, weights(of, generator), precision, generator)
    width = stack.row_width(of)
    # As in the daemon's table, a slot has more than the rows: its values are not contiguous.
    values_SV = 0.3 * torch.randn(8, of.layers * width + of.hidden, generator=generator)
    rows_SLW = values_SV.to(dtype)[:, : of.layers * width].view(8, of.layers, width)
    return Case(
        made_of=made_of,
        x_TD=torch.randn(sum(lengths), of.hidden, generator=generator),
        batch=batch(lengths, slots or [0] * len(lengths)),
        rows_SLW=rows_SLW,
    )


def batch(lengths: list[int], slots: list[int]) -> packing.PackedBatch:
    """Rows of any lengths; ids do not matter to layers."""
    tokens = sum(lengths)
    return packing.pack(
        ids_T=np.zeros(tokens, np.int32),
        types_T=np.zeros(tokens, np.uint8),
        lengths_B=np.array(lengths, np.int32),
        slots_B=np.array(slots, np.int32),
        position_offset=0,
    )
