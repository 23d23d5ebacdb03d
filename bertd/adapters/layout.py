"""What is left of an adapter after folding: a row of the table, and its head as one flat array.

Ten thousand adapters of one recipe differ in numbers alone. So each is two arrays and a `Layout`
that it shares with all of its kind, and the small objects that a forward wants are made for the
few adapters of a batch, as views.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bertd.checkpoint import adapter_file

Floats = NDArray[np.float32]
LAYOUTS_MAX = 1024  # that are remembered; further ones are equal objects of their own


@dataclass(frozen=True, kw_only=True)  # no slots: it caches what it derives
class Layout:
    """How a head computes, and the names and shapes of its tensors in their order in the array.

    `head` is None for a base that only embeds. Names are those of `adapter_file.Adapter.head`, and
    `pooler.bias` where the adapter offsets the base's.
    """

    head: adapter_file.Head | None
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @functools.cached_property
    def size(self) -> int:
        """How many values the array has."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    @functools.cached_property
    def _places(self) -> tuple[tuple[str, slice, tuple[int, ...]], ...]:
        """Name, place in the array and shape of each tensor: every batch asks for its heads."""
        places, start = [], 0
        for name, shape in self.shapes:
            stop = start + math.prod(shape)
            places.append((name, slice(start, stop), shape))
            start = stop
        return tuple(places)

    def unpack(self, values: Floats) -> dict[str, Floats]:
        """The tensors, as views of `values`."""
        return {name: values[place].reshape(shape) for name, place, shape in self._places}


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """One adapter, ready for a slot: `biases` [row of the table] in its dtype, `values` fp32."""

    biases: torch.Tensor
    layout: Layout
    values: Floats


def pack(head: adapter_file.Head | None, tensors: Mapping[str, Floats]) -> tuple[Layout, Floats]:
    """Lays a head's tensors end to end, in an array of their own."""
    shapes = tuple((name, tensor.shape) for name, tensor in tensors.items())
    parts = [tensor.ravel() for tensor in tensors.values()]
    values = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return shared(head, shapes), values


@functools.lru_cache(maxsize=LAYOUTS_MAX)
def shared(
    head: adapter_file.Head | None, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> Layout:
    """The one `Layout` of these; a Layout for each adapter would be larger than a small head."""
    return Layout(head=head, shapes=shapes)
