"""The packed encoder equals transformers fp32, for every family, length and head."""

import numpy as np
import pytest
import torch

from bertd import frames
from bertd.adapters import bank
from bertd.checkpoint import adapter_file
from bertd.engine import runner
from bertd.model import encoder
from tests import tiny

LENGTHS = [1, 2, 3, 7, 7, 16, 31, 64, 128, 511, 512]
RELATIVE = 1e-4


def runner_of(model: tiny.Tiny, dtype: torch.dtype = torch.float32) -> runner.Runner:
    """The engine's runner over a tiny model and its own head."""
    head = None
    if model.layout:
        problem = "token" if model.layout.input == "token" else "single_label"
        kind = adapter_file.Head(kind=model.layout.kind, input=model.layout.input, problem=problem)
        head = (kind, {name: tensor.numpy() for name, tensor in model.head.items()})
    adapters = bank.Bank(
        model.shape,
        model.weights.__getitem__,
        dtype=dtype,
        has_pooler="pooler.weight" in model.weights,
        base_head=head,
        slots=64,
    )
    return runner.Runner(encoder.Encoder(model.shape, model.weights, dtype), adapters, "mean")


def run(
    engine: runner.Runner, ids: list[np.ndarray], types: list[np.ndarray], task: frames.Task
) -> list[np.ndarray]:
    """All rows in one batch, all on the base."""
    batch = frames.pack_rows(
        1, [(i, t, bank.BASE_SLOT, task) for i, t in zip(ids, types, strict=True)]
    )
    return engine.run(batch).vectors


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_sequence_logits_and_embeddings(family: str) -> None:
    """One packed batch of lengths 1 to 512 gives each row transformers' logits and mean (D7)."""
    model = tiny.build(family)
    lengths = [n for n in LENGTHS if n <= model.shape.max_tokens]
    ids, types = tiny.rows(lengths, 99, model.shape.token_types)
    engine = runner_of(model)
    logits = run(engine, ids, types, frames.Task.CLASSIFY)
    means = run(engine, ids, types, frames.Task.EMBED)
    for i, t, got, mean in zip(ids, types, logits, means, strict=True):
        expected = tiny.oracle(model.model, i, t, model.shape.token_types)
        assert relative_error(got, expected.logits[0].numpy()) < RELATIVE
        hidden = expected.hidden_states[-1][0].mean(dim=0).numpy()
        assert relative_error(mean, hidden) < RELATIVE


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_token_logits(family: str) -> None:
    """A token classification checkpoint gives transformers' logits for every token."""
    model = tiny.build(family, "TokenClassification", labels=5)
    ids, types = tiny.rows([4, 9, 9, 40], 99, model.shape.token_types)
    for i, t, got in zip(
        ids, types, run(runner_of(model), ids, types, frames.Task.TAG), strict=True
    ):
        expected = tiny.oracle(model.model, i, t, model.shape.token_types).logits[0].numpy()
        assert got.shape == expected.shape
        assert relative_error(got, expected) < RELATIVE


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_bf16_stays_near_fp32(family: str) -> None:
    """bf16 weights and activations stay within 5 % of fp32's largest logit on a tiny model."""
    model = tiny.build(family)
    ids, types = tiny.rows([5, 17, 60], 99, model.shape.token_types)
    exact = run(runner_of(model), ids, types, frames.Task.CLASSIFY)
    rounded = run(runner_of(model, torch.bfloat16), ids, types, frames.Task.CLASSIFY)
    scale = max(np.abs(e).max() for e in exact)
    assert max(np.abs(r - e).max() for r, e in zip(rounded, exact, strict=True)) < 0.05 * scale


def test_a_row_is_the_same_alone_and_in_company() -> None:
    """A row's answer does not depend on its batch mates' lengths or number (D7)."""
    model = tiny.build("bert")
    engine = runner_of(model)
    ids, types = tiny.rows([11, 3, 200, 11, 64, 1, 512], 99, 2, seed=3)
    together = run(engine, ids, types, frames.Task.CLASSIFY)
    for i, t, got in zip(ids, types, together, strict=True):
        alone = run(engine, [i], [t], frames.Task.CLASSIFY)[0]
        np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)


def test_no_product_sees_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every linear product of the encoder runs on exactly the real tokens."""
    model = tiny.build("bert")
    engine = runner_of(model)
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def counting(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        return linear(x, *rest)

    ids, types = tiny.rows([2, 50, 9], 99, 2)
    monkeypatch.setattr(encoder.F, "linear", counting)
    run(engine, ids, types, frames.Task.EMBED)
    assert set(seen) == {61}
    assert len(seen) == 4 * model.shape.layers
