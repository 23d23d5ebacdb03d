"""Names and shapes per family are those of transformers' own models."""

from typing import Any

import pytest
import torch
import transformers

from bertd import families
from tests import tiny

FAMILIES = list(tiny.CONFIGS)


def model_of(family: str, suffix: str, **options: Any) -> Any:
    """A seeded tiny model of transformers."""
    prefix, config = tiny.CONFIGS[family]
    torch.manual_seed(0)
    built = getattr(transformers, f"{prefix}Config")(**config | options)
    return getattr(transformers, f"{prefix}{suffix}")(built)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_the_bare_model_has_a_canonical_name_and_its_shape(family: str) -> None:
    """The table of a family names all tensors of transformers' bare model and no other."""
    model = model_of(family, "Model")
    shape = families.shape(model.config.to_dict())
    names = families.encoder_names(shape)
    ours = {names[name]: size for name, size in families.tensor_shapes(shape).items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_models_names_lose_their_prefix(family: str) -> None:
    """Normalised names of a task model are the bare model's names plus those of its head."""
    model = model_of(family, "ForSequenceClassification")
    shape = families.shape(model.config.to_dict())
    layout = families.head_layout(type(model).__name__)
    assert layout is not None
    bare = {families.normalise(name, shape.family) for name in model.state_dict()}
    expected = set(families.encoder_names(shape).values()) | set(layout.names.values())
    assert expected - bare <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert bare <= expected


@pytest.mark.parametrize("family", FAMILIES)
def test_token_classifiers_are_linear_on_tokens(family: str) -> None:
    """Every family's token classifier is known and reads every token with one linear layer."""
    model = model_of(family, "ForTokenClassification")
    layout = families.head_layout(type(model).__name__)
    assert layout is not None
    assert (layout.kind, layout.input) == ("linear", "token")
    assert set(layout.names.values()) <= set(model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_biases_are_all_that_an_adapter_may_offset(family: str) -> None:
    """The offsettable names are exactly transformers' parameters that end in bias."""
    model = model_of(family, "Model")
    shape = families.shape(model.config.to_dict())
    expected = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert sorted(families.bias_names(shape).values()) == sorted(expected)


@pytest.mark.parametrize(("family", "tokens"), [("bert", 520), ("roberta", 518), ("mpnet", 518)])
def test_positions_that_padding_takes_are_not_counted(family: str, tokens: int) -> None:
    """RoBERTa and MPNet lose the positions up to the padding id; BERT loses none."""
    config = model_of(family, "Model").config.to_dict()
    assert families.shape(config).max_tokens == tokens


@pytest.mark.parametrize(
    ("name", "family", "bare"),
    [
        ("bert.embeddings.LayerNorm.gamma", "bert", "embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.beta", "bert", "embeddings.LayerNorm.bias"),
        ("0.auto_model.embeddings.x.bias", "mpnet", "embeddings.x.bias"),
        ("model.roberta.pooler.dense.bias", "roberta", "pooler.dense.bias"),
        ("roberta.pooler.dense.bias", "bert", "roberta.pooler.dense.bias"),
        ("classifier.weight", "bert", "classifier.weight"),
    ],
)  # fmt: skip
def test_normalised_names(name: str, family: str, bare: str) -> None:
    """Wrappers' prefixes, the family's own prefix and the norm names of 2018 are undone."""
    assert families.normalise(name, family) == bare


def test_architectures_without_a_head_have_no_layout() -> None:
    """Bare models and tasks that bertd computes otherwise carry no head."""
    for name in ("BertModel", "BertForMaskedLM", "ElectraForPreTraining", "", "MyModel"):
        assert families.head_layout(name) is None
