"""A bank keeps adapters small, each whole and apart from all others."""

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from bertd import errors, families
from bertd.adapters import bank, layout
from bertd.checkpoint import adapter_file
from tests import tiny

OVERHEAD_MAX_BYTES = 1024


def adapter(
    shape: families.EncoderShape, seed: int, *, labels: int = 3, names: tuple[str, ...] = ()
) -> adapter_file.Adapter:
    """An adapter that offsets `names`, or all biases, with a linear head on the pooler."""
    rng = np.random.default_rng(seed)
    shapes = families.tensor_shapes(shape)
    info: Any = adapter_file.AdapterInfo(
        base_digest="", tokenizer_digest="", temperature=1.0, thresholds={}, training={},
        head=adapter_file.Head(kind="linear", input="pooler", problem="single_label"),
        label_names=tuple(map(str, range(labels))), digest="", file_bytes=0,
    )  # fmt: skip
    return adapter_file.Adapter(
        info=info,
        offsets={
            name: rng.standard_normal(shapes[name], np.float32)
            for name in names or families.bias_names(shape)
        },
        head={
            "out.weight": rng.standard_normal((labels, shape.hidden), np.float32),
            "out.bias": rng.standard_normal(labels, np.float32),
        },
    )


def make(model: tiny.Tiny, **options: Any) -> bank.Bank:
    """A bank over a tiny model."""
    has_pooler = "pooler.weight" in model.weights
    return bank.Bank(
        model.shape,
        model.weights.__getitem__,
        **{"dtype": torch.float32, "has_pooler": has_pooler} | options,
    )


def test_folding_many_is_folding_each() -> None:
    """Adapters folded together, with any subset of biases, equal each folded alone."""
    model = tiny.build("bert")
    made = make(model)
    query = tuple(n for n in families.bias_names(model.shape) if "query" in n)
    adapters = [
        adapter(model.shape, 1), adapter(model.shape, 2, labels=5),
        adapter(model.shape, 3, names=query),
        adapter(model.shape, 4, names=("pooler.bias", "embeddings.norm.bias")),
    ]  # fmt: skip
    for one, together in zip(adapters, made.fold(adapters), strict=True):
        (alone,) = made.fold([one])
        torch.testing.assert_close(together.biases, alone.biases, atol=1e-5, rtol=1e-5)
        assert together.layout is alone.layout
        assert np.array_equal(together.values, alone.values)
    assert made.fold([]) == []


def test_a_slot_is_not_another() -> None:
    """Each slot has its own head; the pooler's weight is the base's, and one array for all."""
    model = tiny.build("bert")
    made = make(model)
    adapters = [adapter(model.shape, 1), adapter(model.shape, 2, labels=5, names=("pooler.bias",))]
    for slot, folded in enumerate(made.fold(adapters), start=1):
        assert made.install(slot, folded) == folded.values.nbytes
    first, second, base = (made[slot] for slot in (1, 2, bank.BASE_SLOT))
    for loaded, one in ((first, adapters[0]), (second, adapters[1])):
        assert loaded.head is not None
        assert np.array_equal(loaded.head.out.weight, one.head["out.weight"])
        assert np.array_equal(loaded.head.out.bias, one.head["out.bias"])
        assert loaded.head.pooler is loaded.pooler is not None
        expected = model.weights["pooler.bias"].numpy() + one.offsets["pooler.bias"]
        assert np.array_equal(loaded.pooler.bias, expected)
    assert base.head is None
    assert first.pooler is not None
    assert second.pooler is not None
    assert base.pooler is not None
    assert first.pooler.weight is second.pooler.weight is base.pooler.weight


def test_freeing_forgets_one_slot_and_never_the_base() -> None:
    """A freed slot is empty, its neighbour is not, and the base's slot cannot be freed."""
    model = tiny.build("bert")
    made = make(model)
    for slot, folded in enumerate(made.fold([adapter(model.shape, s) for s in (1, 2)]), start=1):
        made.install(slot, folded)
    held = made[1]
    for slot in (1, 1, 7, bank.BASE_SLOT):
        made.free(slot)
    with pytest.raises(KeyError):
        made[1]
    assert made[2].head is not None
    assert made[bank.BASE_SLOT].pooler is not None
    assert held.head is not None  # whoever reads it still can
    assert np.isfinite(held.head.out.weight).all()


def test_the_base_slot_is_taken() -> None:
    """Nothing can be installed where the base answers."""
    model = tiny.build("bert")
    made = make(model)
    (folded,) = made.fold([adapter(model.shape, 1)])
    with pytest.raises(errors.Bug, match="slot 0"):
        made.install(bank.BASE_SLOT, folded)


def test_a_full_table_keeps_no_head() -> None:
    """An adapter that finds no row leaves no head behind either."""
    model = tiny.build("bert")
    made = make(model, slots=2)
    (folded,) = made.fold([adapter(model.shape, 1)])
    with pytest.raises(errors.Temporary, match="2 slots"):
        made.install(2, folded)
    with pytest.raises(KeyError):
        made[2]


def test_an_adapter_costs_little_beside_its_numbers() -> None:
    """A linear head costs at most 1 KiB of memory beside its values, row of the table apart."""
    model = tiny.build("bert")
    made = make(model)
    head = adapter_file.Head(kind="linear", input="cls", problem="single_label")
    row = torch.zeros(made.table.slot_bytes // 4)
    tensors = {"out.weight": np.ones((3, 24), np.float32), "out.bias": np.ones(3, np.float32)}
    gc.collect()
    tracemalloc.start()
    values_bytes = 0
    for slot in range(1, 1001):
        kept, values = layout.pack(head, tensors)
        values_bytes += made.install(slot, layout.Folded(biases=row, layout=kept, values=values))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values_bytes == 1000 * 4 * 75
    assert used - values_bytes < 1000 * OVERHEAD_MAX_BYTES
