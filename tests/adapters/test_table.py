"""The adapter table grows in place and costs what its adapters cost."""

import resource

import pytest
import torch

from bertd import errors
from bertd.adapters import table
from bertd.kernels import stack
from tests import tiny


def test_rows_never_move() -> None:
    """Writing far slots leaves earlier rows at their address, with their values."""
    shape = tiny.build("bert").shape
    biases = table.BiasTable(shape, torch.float32)
    address = biases.rows_SLW.data_ptr()
    first = torch.randn(shape.layers * stack.row_width(shape) + shape.hidden)
    biases.write(1, first)
    biases.write(biases.slots - 1, first * 2)
    assert biases.rows_SLW.data_ptr() == address
    assert torch.equal(torch.cat((biases.rows_SLW[1].flatten(), biases.tail_SD[1])), first)
    assert torch.equal(biases.tail_SD[biases.slots - 1], first[-shape.hidden :] * 2)


def test_reserving_costs_no_memory() -> None:
    """Reserving 64 GiB of address space adds less than 64 MiB of resident memory."""
    shape = tiny.build("bert").shape
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tables = [table.BiasTable(shape, torch.bfloat16) for _ in range(3)]
    assert tables[0].slots > 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 64 << 10


def test_a_full_table_says_so() -> None:
    """A slot beyond the table is refused with a message that counts its slots."""
    shape = tiny.build("bert").shape
    biases = table.BiasTable(shape, torch.float32, slots=2)
    row = torch.zeros(shape.layers * stack.row_width(shape) + shape.hidden)
    with pytest.raises(errors.Temporary, match="2 slots"):
        biases.write(2, row)


@pytest.mark.parametrize(
    ("dtype", "limit_bytes"), [(torch.float32, 262_144), (torch.bfloat16, 131_072)]
)
def test_bert_base_adapters_are_small(dtype: torch.dtype, limit_bytes: int) -> None:
    """A BERT-base adapter takes at most 256 KiB in fp32 and 128 KiB in bf16, without its head."""
    small = tiny.build("bert").shape
    base = type(small)(
        family="bert", hidden=768, layers=12, heads=12, ffn=3072, vocab=30522, positions=512,
        position_offset=0, token_types=2, embedding=768, norm_eps=1e-12, activation="gelu",
        relative_buckets=0,
    )  # fmt: skip
    assert table.BiasTable(base, dtype, slots=1).slot_bytes <= limit_bytes
