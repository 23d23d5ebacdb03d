"""Shapes of the models, and how many operations a batch of real tokens needs."""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.engine import rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A BERT's sizes."""

    hidden: int
    layers: int
    heads: int
    ffn: int


SHAPES = {
    "bert-base": Shape(hidden=768, layers=12, heads=12, ffn=3072),
    "bert-large": Shape(hidden=1024, layers=24, heads=16, ffn=4096),
    "minilm": Shape(hidden=384, layers=6, heads=12, ffn=1536),
}


def operations(shape: Shape, batches: Iterable[rows.Rows]) -> int:
    """Operations of the matrix products on real tokens: padding would not count.

    A row of s tokens takes s (2 L (4 h² + 2 h i) + 4 L h s), multiply and add counted as two.
    """
    h, i = shape.hidden, shape.ffn
    linear, attention = 2 * shape.layers * (4 * h * h + 2 * h * i), 4 * shape.layers * h
    return sum(s * (linear + attention * s) for batch in batches for s in batch.lengths_B.tolist())
