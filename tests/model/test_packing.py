"""How rows are laid end to end, and which tokens a row of the adapter table reaches."""

import numpy as np
import pytest
import torch

from bertd.kernels import stack
from bertd.model import encoder, packing
from tests import tiny


def pack(lengths: list[int], slots: list[int]) -> packing.PackedBatch:
    """Rows of zeros."""
    tokens = sum(lengths)
    return packing.pack(
        ids_T=np.zeros(tokens, np.int32),
        types_T=np.zeros(tokens, np.uint8),
        lengths_B=np.array(lengths, np.int32),
        slots_B=np.array(slots, np.int32),
        position_offset=2,
    )


def test_neighbours_of_equal_length_form_a_group() -> None:
    """Groups say where their tokens and their rows begin, in order, without a gap."""
    batch = pack([3, 3, 5, 3], [4, 7, 4, 4])
    assert [(g.start, g.row, g.rows, g.length) for g in batch.groups] == [
        (0, 0, 2, 3), (6, 2, 1, 5), (11, 3, 1, 3)
    ]  # fmt: skip
    assert batch.positions_T.tolist() == [2, 3, 4, 2, 3, 4, 2, 3, 4, 5, 6, 2, 3, 4]
    assert batch.slot_i.tolist() == [4, 7, 4, 4]
    assert batch.biased == batch.groups


@pytest.mark.parametrize("slot", [0, 9])
def test_one_adapter_is_read_once(slot: int) -> None:
    """Where all rows share an adapter one row of the table reaches every token."""
    batch = pack([3, 5], [slot, slot])
    assert batch.slot_i.tolist() == [slot]
    assert [(g.start, g.row, g.rows, g.length) for g in batch.biased] == [(0, 0, 1, 8)]


def test_biases_are_read_per_row_and_never_laid_out_per_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mixed batch gathers one table row per row of the batch, whatever its number of tokens."""
    model = tiny.build("bert")
    made = encoder.Encoder(model.shape, model.weights, library=None)
    width = stack.row_width(model.shape)
    rows_SLW = torch.randn(5, model.shape.layers, width)
    tail_SD = torch.randn(5, model.shape.hidden)
    gathered: list[tuple[int, ...]] = []
    select = torch.Tensor.index_select

    def counting(self: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
        gathered.append((len(index), self.shape[-1]))
        return select(self, dim, index)

    monkeypatch.setattr(torch.Tensor, "index_select", counting)
    made.forward(pack([30, 30, 7], [1, 2, 4]), rows_SLW, tail_SD)
    assert gathered == [(3, width)] * model.shape.layers + [(3, model.shape.hidden)]


def test_every_row_gets_its_own_biases() -> None:
    """Rows of any lengths and slots, in any order, come out as each does alone."""
    model = tiny.build("bert")
    made = encoder.Encoder(model.shape, model.weights)
    generator = torch.Generator().manual_seed(3)
    rows_SLW = torch.randn(6, model.shape.layers, stack.row_width(model.shape), generator=generator)
    tail_SD = torch.randn(6, model.shape.hidden, generator=generator)
    lengths, slots = [4, 4, 4, 9, 1, 1, 4], [5, 1, 5, 2, 2, 3, 0]
    together = made.forward(pack(lengths, slots), rows_SLW, tail_SD).split(lengths)
    for length, slot, got in zip(lengths, slots, together, strict=True):
        alone = made.forward(pack([length], [slot]), rows_SLW, tail_SD)
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)
    assert float((together[0] - together[1]).abs().max()) > 0.1
