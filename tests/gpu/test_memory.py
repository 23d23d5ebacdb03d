"""Memory on a GPU: what the table of adapters takes, and that serving takes no more and more."""

import pytest
import torch

from bertd import errors
from bertd.adapters import table
from bertd.kernels import stack
from bertd.model import cuda, encoder
from tests import devices, gpu, tiny

pytestmark = gpu.needs_gpu

GPU = torch.device("cuda", 0)


def test_a_table_takes_its_share_at_once_and_no_more() -> None:
    """A quarter of what is free, rows included; writing the last slot allocates nothing."""
    shape = tiny.build("bert").shape
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info(GPU)
    made = table.BiasTable(shape, torch.bfloat16, device=GPU)
    taken = made.slots * made.slot_bytes
    share = min(free_bytes // table.DEVICE_SHARE, table.SLOTS_MAX * made.slot_bytes)
    assert share - made.slot_bytes <= taken <= share
    before = torch.cuda.memory_allocated(GPU)
    row = torch.randn(shape.layers * stack.row_width(shape) + shape.hidden).bfloat16()
    address = made.rows_SLW.data_ptr()
    made.write(made.slots - 1, row)
    assert torch.cuda.memory_allocated(GPU) == before
    assert made.rows_SLW.data_ptr() == address
    assert torch.equal(made.tail_SD[made.slots - 1].cpu(), row[-shape.hidden :])
    with pytest.raises(errors.Temporary, match=f"{made.slots} slots"):
        made.write(made.slots, row)


def test_a_written_slot_is_read_by_the_next_batch() -> None:
    """An adapter that replaces another in its slot answers at once, on whatever stream."""
    model = tiny.build("bert", **devices.WIDE)
    engine = devices.engine_of(model, "bf16", GPU)
    engine.warm_up()
    assert isinstance(engine.encoder, cuda.DeviceEncoder)
    made = engine.bank.table
    plain = encoder.Encoder(model.shape, model.weights, "fp32", None)
    batch = devices.packed([5, 9], [3, 3])
    width = stack.row_width(model.shape)
    for seed in range(20):
        row = torch.randn(
            model.shape.layers * width + model.shape.hidden,
            generator=torch.Generator().manual_seed(seed),
        )
        made.write(3, row.bfloat16())
        got = engine.encoder.fetch(batch, made.rows_SLW, made.tail_SD, {"token"})
        rows_SLW = row[: -model.shape.hidden].view(1, model.shape.layers, width).expand(4, -1, -1)
        tail_SD = row[-model.shape.hidden :].expand(4, -1)
        expected = plain.forward(batch, rows_SLW, tail_SD)
        error = float((got.by_input["token"] - expected).abs().max() / expected.abs().max())
        assert error < 0.06


def test_serving_does_not_take_more_and_more() -> None:
    """After batches of all sizes, the same batches again leave the allocator where it was."""
    model = tiny.build("bert", **devices.WIDE)
    engine = devices.engine_of(model, "bf16", GPU)
    engine.warm_up()
    made = engine.bank.table

    def sweep() -> int:
        for tokens in (3, 200, 5_000, 20_000):
            batch = devices.packed(
                [min(tokens, 500)] * (tokens // 500 or 1), [0] * (tokens // 500 or 1)
            )
            engine.encoder.fetch(batch, made.rows_SLW, made.tail_SD, {"mean", "token"})
        return torch.cuda.memory_reserved(GPU)

    first = sweep()
    assert [sweep() for _ in range(5)] == [first] * 5
