"""The GPU's path, on a CPU: the same steps, blocks and copies; `tests/gpu` runs it on a device."""

import threading
from concurrent import futures

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bertd import frames
from bertd.model import cuda, cuda_graphs, cuda_inputs, encoder, heads, packing
from tests import tiny
from tests.devices import CPU, WIDE, engine_of, packed, run, tables

LENGTHS = [1, 2, 3, 7, 7, 16, 31, 64, 128, 511, 512]


def varlen(  # what `torch.nn.attention.varlen.varlen_attn` computes, whatever lies behind the rows
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, offsets: torch.Tensor, *_: object
) -> torch.Tensor:
    """Attention of each row alone."""
    out = torch.full_like(q, torch.nan)
    for start, stop in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
        parts = [x[start:stop].transpose(0, 1) for x in (q, k, v)]
        if stop > start:
            out[start:stop] = F.scaled_dot_product_attention(*parts).transpose(0, 1)
    return out


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_sequence_logits_and_embeddings(family: str) -> None:
    """One packed batch of lengths 1 to 512 gives each row transformers' logits and mean (D7)."""
    model = tiny.build(family)
    lengths = [n for n in LENGTHS if n <= model.shape.max_tokens]
    ids, types = tiny.rows(lengths, 99, model.shape.token_types)
    engine = engine_of(model)
    logits = run(engine, ids, types, frames.Task.CLASSIFY)
    means = run(engine, ids, types, frames.Task.EMBED)
    for i, t, got, mean in zip(ids, types, logits, means, strict=True):
        expected = tiny.oracle(model.model, i, t, model.shape.token_types)
        np.testing.assert_allclose(got[0], expected.logits[0], atol=2e-3, rtol=1e-4)
        hidden = expected.hidden_states[-1][0].mean(dim=0)
        np.testing.assert_allclose(mean[0], hidden, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_token_logits(family: str) -> None:
    """A token classification checkpoint gives transformers' logits for every token."""
    model = tiny.build(family, "TokenClassification", labels=5)
    ids, types = tiny.rows([4, 9, 9, 40], 99, model.shape.token_types)
    got = run(engine_of(model), ids, types, frames.Task.TAG)
    for i, t, one in zip(ids, types, got, strict=True):
        expected = tiny.oracle(model.model, i, t, model.shape.token_types).logits[0]
        np.testing.assert_allclose(one, expected, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.05), ("fp8", 0.25)])
def test_rounded_precisions_stay_near_fp32(precision: str, share: float) -> None:
    """Logits of a tiny model stay within a stated part of fp32's largest one."""
    model = tiny.build("bert", **WIDE)
    ids, types = tiny.rows([5, 17, 60, 1], 99, 2)
    exact = run(engine_of(model), ids, types, frames.Task.CLASSIFY)
    rounded = run(engine_of(model, precision), ids, types, frames.Task.CLASSIFY)
    scale = max(np.abs(each).max() for each in exact)
    worst = max(np.abs(a - b).max() for a, b in zip(exact, rounded, strict=True))
    assert worst < share * scale


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_every_row_gets_its_own_biases(precision: str) -> None:
    """Rows of any lengths and slots, in any order, come out as each does alone (B7, D7)."""
    model = tiny.build("bert", **WIDE)
    made = cuda.DeviceEncoder(model.shape, model.weights, precision, CPU)
    rows_SLW, tail_SD = (each.to(made.bias_dtype) for each in tables(model))
    lengths, slots = [4, 4, 4, 9, 1, 1, 4], [5, 1, 5, 2, 2, 3, 0]
    batch = packed(lengths, slots)
    together = made.fetch(batch, rows_SLW, tail_SD, {"token", "mean"})
    starts = np.cumsum([0, *lengths])
    for row, (length, slot) in enumerate(zip(lengths, slots, strict=True)):
        span = slice(starts[row], starts[row] + length)
        alone = packing.pack(
            ids_T=batch.ids_T[span].int().numpy(),
            types_T=batch.types_T[span].to(torch.uint8).numpy(),
            lengths_B=np.array([length], np.int32),
            slots_B=np.array([slot], np.int32),
            position_offset=0,
        )
        got = made.fetch(alone, rows_SLW, tail_SD, {"token", "mean"})
        near = {"atol": 1e-4, "rtol": 1e-4} if precision == "fp32" else {"atol": 0.1, "rtol": 0.05}
        torch.testing.assert_close(together.tokens(row), got.tokens(0), **near)
        torch.testing.assert_close(together.pooled("mean")[row], got.pooled("mean")[0], **near)


def test_it_equals_the_encoder_of_a_cpu() -> None:
    """Every way to read hidden states gives what the CPU's encoder and pooling give."""
    model = tiny.build("mpnet")
    rows_SLW, tail_SD = tables(model)
    batch = packed([3, 3, 8, 1, 20], [1, 4, 4, 0, 2])
    plain = encoder.Encoder(model.shape, model.weights, "fp32", None)
    hidden = heads.Hidden(hidden_TD=plain.forward(batch, rows_SLW, tail_SD), batch=batch)
    made = cuda.DeviceEncoder(model.shape, model.weights, "fp32", CPU)
    got = made.fetch(batch, rows_SLW, tail_SD, {"mean", "max", "cls", "pooler", "token"})
    for mode in ("mean", "max", "cls", "pooler"):
        torch.testing.assert_close(got.pooled(mode), hidden.pooled(mode), atol=1e-4, rtol=1e-4)
    for row in range(5):
        torch.testing.assert_close(got.tokens(row), hidden.tokens(row), atol=1e-4, rtol=1e-4)


def test_a_batch_crosses_once_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that embed, classify and tag together cost one copy out and one copy back."""
    model = tiny.build("bert")
    made = cuda.DeviceEncoder(model.shape, model.weights, "fp32", CPU)
    rows_SLW, tail_SD = tables(model)
    crossings: list[str] = []
    for name in ("send", "fetch"):
        whole = getattr(cuda_inputs.Staging, name)

        def counting(
            self: object, *rest: object, name: str = name, whole: object = whole
        ) -> object:
            crossings.append(name)
            return whole(self, *rest)

        monkeypatch.setattr(cuda_inputs.Staging, name, counting)
    made.fetch(packed([5, 2], [1, 2]), rows_SLW, tail_SD, {"mean", "cls", "token"})
    assert crossings == ["send", "fetch"]


def test_a_block_with_dummies_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in a graph's block, dummy rows behind it, comes out as it does without them."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    model = tiny.build("bert", **WIDE)
    made = cuda.DeviceEncoder(model.shape, model.weights, "fp32", CPU)
    network = made._network
    network.is_varlen = True
    rows_SLW, _ = tables(model)
    batch = packed([3, 9, 9, 30], [1, 5, 2, 2])
    exact = cuda_inputs.Room.of(batch)
    alone = torch.empty(exact.values, dtype=torch.int32)
    cuda_inputs.lay(batch, exact, 0, alone)
    expected = network.run(cuda_inputs.views(alone, exact), rows_SLW)
    for room in cuda_graphs.rooms(model.shape)[:5]:
        block = torch.full((room.values,), 2**31 - 1, dtype=torch.int32)
        assert room.holds(batch)
        cuda_inputs.lay(batch, room, 0, block)
        got = network.run(cuda_inputs.views(block, room), rows_SLW)
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got[: len(expected)], expected, atol=1e-4, rtol=1e-4)


@given(
    lengths=st.lists(st.integers(1, 512), min_size=1, max_size=300),
    index=st.integers(0, len(cuda_graphs.BUCKETS_TOKENS) - 1),
)
def test_dummies_fill_a_block_and_are_never_too_long(lengths: list[int], index: int) -> None:
    """Whatever a block holds, its rows end at its end, and none is longer than attention reads."""
    room = cuda_graphs.rooms(tiny.build("bert").shape)[index]
    batch = packed(lengths, [7] * len(lengths))
    if not room.holds(batch):
        return
    block = torch.full((room.values,), -1, dtype=torch.int32)
    cuda_inputs.lay(batch, room, 2, block)
    parts = cuda_inputs.views(block, room)
    steps = parts.offsets.diff()
    assert int(parts.offsets[0]) == 0
    assert int(parts.offsets[-1]) == room.tokens
    assert int(steps.min()) >= 0
    assert int(steps.max()) <= room.longest
    assert steps[: len(lengths)].tolist() == lengths
    assert int(block.min()) >= 0
    assert (parts.slots_T[: sum(lengths)] == 7).all()
    assert (parts.slots_T[sum(lengths) :] == 0).all()


@pytest.mark.parametrize(
    ("lengths", "tokens"),
    [([1], 64), ([64], 64), ([65], 128), ([1] * 16, 64), ([1] * 17, 128), ([512] * 16, 8192)],
)
def test_the_smallest_block_that_holds_a_batch(lengths: list[int], tokens: int) -> None:
    """Tokens, rows and the longest row decide together."""
    rooms = cuda_graphs.rooms(tiny.build("bert").shape)
    batch = packed(lengths, [0] * len(lengths))
    assert next(room.tokens for room in rooms if room.holds(batch)) == tokens


@pytest.mark.parametrize("lengths", [[521], [1] * 300, [512] * 17])
def test_what_no_block_holds_runs_without_one(lengths: list[int]) -> None:
    """Too long a row, too many rows and too many tokens run without a graph."""
    rooms = cuda_graphs.rooms(tiny.build("bert").shape)
    batch = packed(lengths, [0] * len(lengths))
    assert not any(room.holds(batch) for room in rooms)


def test_lanes_do_not_mix_their_batches() -> None:
    """Threads that run different batches at once each get their own answers, of any size."""
    model = tiny.build("bert")
    made = cuda.DeviceEncoder(model.shape, model.weights, "fp32", CPU)
    rows_SLW, tail_SD = tables(model)
    batches = [packed([n % 7 + 1] * (n % 5 + 1), [n % 6] * (n % 5 + 1), n) for n in range(24)]
    expected = [made.fetch(b, rows_SLW, tail_SD, {"mean"}).pooled("mean") for b in batches]
    together = threading.Barrier(4)

    def lane(first: int) -> list[tuple[int, torch.Tensor]]:
        together.wait()
        order = [(first + n) % len(batches) for n in range(len(batches))]
        return [
            (n, made.fetch(batches[n], rows_SLW, tail_SD, {"mean"}).pooled("mean")) for n in order
        ]

    with futures.ThreadPoolExecutor(4) as lanes:
        for found in lanes.map(lane, range(4)):
            for number, got in found:
                torch.testing.assert_close(got, expected[number], atol=1e-5, rtol=1e-5)


def test_staging_grows_to_the_largest_batch() -> None:
    """A batch larger than the memory set aside for it is answered, and so are small ones after."""
    model = tiny.build("bert", hidden_size=256, intermediate_size=64)
    made = cuda.DeviceEncoder(model.shape, model.weights, "fp32", CPU)
    rows_SLW, tail_SD = tables(model)
    for lengths in ([2], [512] * 40, [3]):
        got = made.fetch(packed(lengths, [1] * len(lengths)), rows_SLW, tail_SD, {"token"})
        assert got.tokens(len(lengths) - 1).shape == (lengths[-1], 256)


def test_a_gpu_that_cannot_capture_runs_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed capture costs speed, not the model, and says so."""
    model = tiny.build("bert", **WIDE)
    made = cuda.DeviceEncoder(model.shape, model.weights, "bf16", CPU)
    made.device = torch.device("cuda", 0)
    made._network.is_varlen = True

    def fails(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graphs, "capture", fails)
    made.warm_up(tables(model)[0])
    assert made.reason == "no CUDA graphs: RuntimeError"
    assert made._graphs == ()
