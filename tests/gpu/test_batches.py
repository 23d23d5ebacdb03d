"""On a GPU a row's answer is its own: whatever adapters, companions and graphs run it."""

from concurrent import futures

import numpy as np
import pytest
import torch

from bertd.model import cuda, cuda_graphs, encoder, packing
from tests import devices, gpu, tiny

pytestmark = gpu.needs_gpu

GPU = torch.device("cuda", 0)
NEAR = {"fp32": 1e-4, "bf16": 0.06, "fp8": 0.25}  # of the largest value


class Bench:
    """A wide tiny model on the GPU and on the CPU, with a table of random adapters."""

    def __init__(self, precision: str, *, with_graphs: bool) -> None:
        if precision == "fp8":
            gpu.needs_fp8()
        self.model = tiny.build("bert", **devices.WIDE)
        self.encoder = cuda.DeviceEncoder(self.model.shape, self.model.weights, precision, GPU)
        self.rows_SLW, self.tail_SD = devices.tables(self.model, slots=200)
        made = self.encoder.bias_dtype
        self.there = (self.rows_SLW.to(GPU, made), self.tail_SD.to(GPU, made))
        self.share = NEAR[precision]
        if with_graphs:
            self.encoder.warm_up(self.there[0])

    def run(self, batch: packing.PackedBatch) -> torch.Tensor:
        """Hidden states of all tokens, fp32."""
        return self.encoder.fetch(batch, *self.there, {"token"}).by_input["token"]

    def exact(self, batch: packing.PackedBatch) -> torch.Tensor:
        """The same in fp32 on the CPU."""
        plain = encoder.Encoder(self.model.shape, self.model.weights, "fp32", None)
        return plain.forward(batch, self.rows_SLW, self.tail_SD)

    def near(self, got: torch.Tensor, expected: torch.Tensor) -> None:
        """Fails where a value is off by more than the precision's share of the largest."""
        assert torch.isfinite(got).all()
        assert float((got - expected).abs().max() / expected.abs().max()) < self.share


def mixed(rows: int, seed: int, longest: int = 60) -> packing.PackedBatch:
    """Rows of random lengths, each of another adapter."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, rows).tolist()
    return devices.packed(lengths, rng.permutation(200)[:rows].tolist(), seed)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("with_graphs", [False, True])
def test_mixed_adapters_in_one_batch(precision: str, with_graphs: bool) -> None:
    """100 rows of 100 adapters come out as fp32 on a CPU computes them (B7)."""
    bench = Bench(precision, with_graphs=with_graphs)
    for seed in range(3):
        batch = mixed(100, seed)
        bench.near(bench.run(batch), bench.exact(batch))


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_graphs_give_what_running_without_gives(precision: str) -> None:
    """Every size of block, nearly empty and full, gives the answers of a run without graphs."""
    plain, captured = (Bench(precision, with_graphs=each) for each in (False, True))
    assert len(captured.encoder._graphs) == len(cuda_graphs.BUCKETS_TOKENS)
    before = 0
    for room in cuda_graphs.rooms(plain.model.shape):
        for tokens in (before + 1, room.tokens):
            full, rest = divmod(tokens, min(room.longest, 100))
            lengths = [min(room.longest, 100)] * full + [rest] * (rest > 0)
            batch = devices.packed(lengths, [n % 200 for n in range(len(lengths))])
            found = cuda_graphs.smallest(captured.encoder._graphs, batch)
            assert found is not None
            assert found.room.tokens >= tokens
            captured.near(captured.run(batch), plain.run(batch))
        before = room.tokens


def test_a_graph_serves_batch_after_batch() -> None:
    """A long row, then short ones in the same block: nothing of the first one is left."""
    bench = Bench("bf16", with_graphs=True)
    batches = [
        devices.packed([500], [3]),
        devices.packed([7] * 60, list(range(60))),
        devices.packed([1], [9]),
    ]
    for batch in (*batches, *batches):
        bench.near(bench.run(batch), bench.exact(batch))


@pytest.mark.parametrize("with_graphs", [False, True])
def test_a_row_does_not_feel_its_mates(with_graphs: bool) -> None:
    """The same row among random companions is the same within the precision's share (D7)."""
    bench = Bench("bf16", with_graphs=with_graphs)
    alone = devices.packed([40], [17], seed=1)
    expected = bench.run(alone)
    for seed in range(8):
        mates = mixed(30, seed)
        together = packing.pack(
            ids_T=torch.cat((mates.ids_T, alone.ids_T)).int().numpy(),
            types_T=torch.cat((mates.types_T, alone.types_T)).to(torch.uint8).numpy(),
            lengths_B=np.array([*mates.lengths_B, 40], np.int32),
            slots_B=np.array([*mates.slots_B, 17], np.int32),
            position_offset=0,
        )
        bench.near(bench.run(together)[-40:], expected)


def test_a_row_is_bit_equal_where_shapes_are() -> None:
    """Other words and adapters in rows of the same lengths change no bit of a row (D7)."""
    bench = Bench("bf16", with_graphs=True)
    first = devices.packed([20, 20, 20], [1, 2, 3], seed=1)
    second = packing.pack(
        ids_T=torch.cat((first.ids_T[:20], first.ids_T[20:].flip(0))).int().numpy(),
        types_T=first.types_T.to(torch.uint8).numpy(),
        lengths_B=np.array([20, 20, 20], np.int32),
        slots_B=np.array([1, 9, 8], np.int32),
        position_offset=0,
    )
    assert torch.equal(bench.run(first)[:20], bench.run(second)[:20])


@pytest.mark.parametrize("with_graphs", [False, True])
def test_lanes_do_not_mix_their_batches(with_graphs: bool) -> None:
    """Two lanes that run different batches at once each get their own answers."""
    bench = Bench("bf16", with_graphs=with_graphs)
    batches = [mixed(n % 40 + 1, n) for n in range(60)]
    expected = [bench.run(batch) for batch in batches]
    with futures.ThreadPoolExecutor(cuda.LANES) as lanes:
        for got, one in zip(lanes.map(bench.run, batches * 3), expected * 3, strict=True):
            torch.testing.assert_close(got, one, atol=0, rtol=0)


def test_the_largest_batches_run_without_a_graph() -> None:
    """More tokens, or more rows, than any block holds."""
    bench = Bench("bf16", with_graphs=True)
    for lengths in ([512] * 40, [1] * 1000):
        batch = devices.packed(lengths, [n % 200 for n in range(len(lengths))])
        assert cuda_graphs.smallest(bench.encoder._graphs, batch) is None
        bench.near(bench.run(batch), bench.exact(batch))
