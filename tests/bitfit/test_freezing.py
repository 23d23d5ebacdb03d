"""Which parameters stay trainable, and what counts as an offset."""

import copy

import pytest
import torch
import transformers

from bertd import errors
from bertd.bitfit import freezing
from tests.bitfit.conftest import tiny_config

LAYERS = 2
HEAD = {"classifier.weight", "classifier.bias"}
PER_LAYER = (
    "attention.self.query.bias",
    "attention.self.key.bias",
    "attention.self.value.bias",
    "attention.output.dense.bias",
    "attention.output.LayerNorm.bias",
    "intermediate.dense.bias",
    "output.dense.bias",
    "output.LayerNorm.bias",
)


def in_layers(*names: str) -> set[str]:
    """These biases of every layer, as a classifier names them."""
    return {f"bert.encoder.layer.{i}.{name}" for i in range(LAYERS) for name in names}


EVERY = in_layers(*PER_LAYER) | {"bert.embeddings.LayerNorm.bias", "bert.pooler.dense.bias"}
OUTPUTS = [name for name in PER_LAYER if "output" in name]


@pytest.fixture
def model() -> transformers.BertForSequenceClassification:
    """The tiny model T, every parameter trainable."""
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(tiny_config())


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ("all", EVERY),
        (["all"], EVERY),
        (["query", "all"], EVERY),
        ("query", in_layers(PER_LAYER[0])),
        (["query", "output"], in_layers(PER_LAYER[0], *OUTPUTS)),
        (["query", "key"], in_layers(*PER_LAYER[:2])),
        ("pooler", {"bert.pooler.dense.bias"}),
        ([], set[str]()),
    ],
)
def test_keyword_table(
    model: transformers.BertForSequenceClassification,
    keywords: str | list[str],
    expected: set[str],
) -> None:
    """Keywords select exactly 8L+2, L, 5L, 2L or 1 biases, and the head always learns (B4)."""
    names = freezing.freeze(model, keywords)
    assert set(names) == expected | HEAD
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected | HEAD


def test_counts_of_the_table() -> None:
    """The sets of the table have the counts of the formula (B4)."""
    assert len(EVERY) == 8 * LAYERS + 2
    assert len(in_layers(PER_LAYER[0], *OUTPUTS)) == 5 * LAYERS


def test_a_keyword_that_matches_nothing_is_refused(
    model: transformers.BertForSequenceClassification,
) -> None:
    """A typo is not silently a smaller training run."""
    with pytest.raises(errors.InvalidRequest, match="no bias of the encoder has 'qurey'"):
        freezing.freeze(model, ["query", "qurey"])


def test_mpnet_relative_table_stays_frozen() -> None:
    """`relative_attention_bias.weight` has bias in its name and is none."""
    torch.manual_seed(0)
    options = tiny_config().to_dict() | {"model_type": "mpnet"}
    names = freezing.freeze(transformers.MPNetModel(transformers.MPNetConfig(**options)), "all")
    assert names
    assert not [name for name in names if not name.endswith(".bias")]


def test_offsets_are_tuned_minus_base(model: transformers.BertForSequenceClassification) -> None:
    """Only trainable encoder parameters have offsets: tuned minus base, detached, head excluded."""
    base = {name: p.detach().clone() for name, p in model.bert.named_parameters()}
    freezing.freeze(model, "pooler")
    with torch.no_grad():
        model.bert.pooler.dense.bias += 0.5
    moved = freezing.offsets(base, model)
    assert list(moved) == ["pooler.dense.bias"]
    assert torch.equal(moved["pooler.dense.bias"], torch.full((24,), 0.5))
    assert not moved["pooler.dense.bias"].requires_grad


@pytest.mark.parametrize("found", [None, torch.zeros(23)])
def test_offsets_against_another_base(
    model: transformers.BertForSequenceClassification, found: torch.Tensor | None
) -> None:
    """A base without the parameter, or with one of another shape, is refused by name."""
    base = {name: p.detach() for name, p in copy.deepcopy(model.bert).named_parameters()}
    del base["pooler.dense.bias"]
    if found is not None:
        base["pooler.dense.bias"] = found
    with pytest.raises(errors.InvalidRequest, match=r"must hold 'pooler\.dense\.bias' \(24,\)"):
        freezing.offsets(base, model)
