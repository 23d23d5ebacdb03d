"""Rows go through their own layers, and layers that share a weight share its product."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bertd.model import heads, packing

WIDTH = 8


def layer(seed: int, weight: np.ndarray | None = None) -> heads.Dense:
    """A random square layer, or one over a given weight."""
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(WIDTH, np.float32)
    if weight is None:
        weight = rng.standard_normal((WIDTH, WIDTH), np.float32)
    return heads.Dense(weight=weight, bias=bias)


@pytest.fixture(name="products")
def _products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each linear product."""
    seen: list[int] = []
    linear: Callable[..., torch.Tensor] = torch.nn.functional.linear

    def counting(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return linear(x, *rest)

    monkeypatch.setattr(heads.F, "linear", counting)
    return seen


def test_poolers_over_one_weight_are_one_product(products: list[int]) -> None:
    """32 adapters' poolers over the base's weight cost one product, each with its own bias."""
    first = layer(0)
    layers = [layer(seed, first.weight) for seed in range(32)]
    x_nD = torch.randn(32, WIDTH)
    got = heads.through(x_nD, layers, torch.tanh)
    assert products == [32]
    for x_D, row, one in zip(x_nD, got, layers, strict=True):
        torch.testing.assert_close(row, torch.tanh(one(x_D)))


def test_rows_without_a_layer_stay_as_they_are(products: list[int]) -> None:
    """Rows of other weights go through theirs, rows without one pass unchanged."""
    a, b = layer(1), layer(2)
    x_nD = torch.randn(5, WIDTH)
    got = heads.through(x_nD, [a, None, b, a, None], torch.relu)
    assert sorted(products) == [1, 2]
    assert torch.equal(got[1], x_nD[1])
    assert torch.equal(got[4], x_nD[4])
    for place, one in ((0, a), (2, b), (3, a)):
        torch.testing.assert_close(got[place], torch.relu(one(x_nD[place])))


def test_no_layers_cost_nothing(products: list[int]) -> None:
    """A batch of linear heads copies nothing."""
    x_nD = torch.randn(3, WIDTH)
    assert heads.through(x_nD, [None] * 3, torch.tanh) is x_nD
    assert products == []


def test_large_heads_are_not_laid_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of thousands of labels answer as small ones do, and a batch copies none of them."""
    rng = np.random.default_rng(0)
    known = [
        heads.Dense(
            weight=rng.standard_normal((2048, 64), np.float32),
            bias=rng.standard_normal(2048, np.float32),
        )
        for _ in range(3)
    ]
    mixed = [heads.Head(kind="linear", input="cls", out=known[row % 3]) for row in range(64)]
    hidden_TD = torch.randn(64, 64)
    batch = packing.pack(
        ids_T=np.zeros(64, np.int32),
        types_T=np.zeros(64, np.uint8),
        lengths_B=np.ones(64, np.int32),
        slots_B=np.arange(64, dtype=np.int32),
        position_offset=0,
    )
    states = heads.Hidden(hidden_TD=hidden_TD, batch=batch)
    tracemalloc.start()
    got = heads.classify(states, range(64), mixed)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * known[0].weight.nbytes
    monkeypatch.setattr(heads, "STACKED_MAX_VALUES", 1 << 40)
    for row, expected in zip(got, heads.classify(states, range(64), mixed), strict=True):
        torch.testing.assert_close(row, expected)


@pytest.mark.parametrize("mode", ["mean", "max", "cls"])
@pytest.mark.parametrize("lengths", [[5], [1], [3, 3, 1, 7, 3], [4, 4, 4]])
def test_rows_of_any_lengths_are_pooled_by_themselves(mode: str, lengths: list[int]) -> None:
    """Each row's vector is that of its own tokens, and the same wherever it lies in the batch."""
    hidden_TD = torch.randn(sum(lengths), WIDTH, generator=torch.Generator().manual_seed(0))

    def pooled(part_TD: torch.Tensor, lengths_B: list[int]) -> torch.Tensor:
        batch = packing.pack(
            ids_T=np.zeros(len(part_TD), np.int32),
            types_T=np.zeros(len(part_TD), np.uint8),
            lengths_B=np.array(lengths_B, np.int32),
            slots_B=np.zeros(len(lengths_B), np.int32),
            position_offset=0,
        )
        return heads.Hidden(hidden_TD=part_TD, batch=batch).pooled(mode)

    reduce = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0), "cls": lambda x: x[0]}[mode]
    rows = hidden_TD.split(lengths)
    found_BD = pooled(hidden_TD, lengths)
    torch.testing.assert_close(found_BD, torch.stack([reduce(row) for row in rows]))
    beside_BD = pooled(torch.cat((hidden_TD, hidden_TD)), [*lengths, *lengths])
    torch.testing.assert_close(beside_BD[len(lengths) :], beside_BD[: len(lengths)], rtol=0, atol=0)
