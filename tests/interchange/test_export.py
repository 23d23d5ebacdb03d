"""Adapters go back: to BitInfer's files, and merged into plain Hugging Face directories."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertd import errors
from bertd.checkpoint import adapter_file
from bertd.engine import session
from bertd.interchange import bitinfer, huggingface, merging, records, tensors
from tests import checkpoints, tiny
from tests.interchange import making

NONE = records.Choices()


@pytest.fixture
def path(opened: records.Opened, tmp_path: Path) -> Path:
    """An adapter with a head on the pooler."""
    return checkpoints.adapter(tmp_path / "a.safetensors", opened.base, label_names=making.LABELS)


def load(path: Path, opened: records.Opened) -> adapter_file.Adapter:
    """The adapter in a file."""
    return adapter_file.read_for(path, opened.base)


def test_an_exported_file_is_bitinfer_s(path: Path, opened: records.Opened) -> None:
    """Restricted loading gives offsets and classifier, detached, contiguous, on the CPU (B6)."""
    data = bitinfer.write(load(path, opened), opened.base)
    value = torch.load(io.BytesIO(data), weights_only=True)
    assert list(value) == ["offsets", "classifier"]
    assert set(value["classifier"]) == {"classifier.weight", "classifier.bias"}
    assert len(value["offsets"]) == 18
    assert "bert.encoder.layer.1.attention.output.LayerNorm.bias" in value["offsets"]
    assert all(isinstance(t, torch.nn.Parameter) for t in value["classifier"].values())
    for tensor in [*value["offsets"].values(), *value["classifier"].values()]:
        assert tensor.is_leaf
        assert tensor.is_contiguous()
        assert (tensor.device.type, tensor.dtype) == ("cpu", torch.float32)


def test_out_and_in_again_is_the_same(path: Path, opened: records.Opened) -> None:
    """Export and import give every number back bit by bit, and so the same logits (B5)."""
    before = load(path, opened)
    text = bitinfer.to_text(bitinfer.write(before, opened.base))
    after = adapter_file.parse(
        bitinfer.convert(text, base=opened.base, label_names=making.LABELS), opened.base
    )
    assert after.info.head == before.info.head
    assert after.info.label_names == before.info.label_names
    for ours, theirs in ((before.offsets, after.offsets), (before.head, after.head)):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(theirs[name], array) for name, array in ours.items())


def test_a_head_on_tokens_is_not_exported(opened: records.Opened, tmp_path: Path) -> None:
    """Its tensors are called as a text classifier's, and BitInfer would take it for one."""
    path = checkpoints.adapter(
        tmp_path / "a.safetensors", opened.base, head_input="token", problem="token"
    )
    with pytest.raises(errors.BadArtifact, match="'linear' on 'token'") as caught:
        bitinfer.write(load(path, opened), opened.base)
    assert caught.value.reason == "NotExpressible"


@pytest.mark.parametrize("head_input", ["mean", "cls"])
def test_heads_that_others_lack_are_refused(
    opened: records.Opened, tmp_path: Path, head_input: str
) -> None:
    """BERT's classifier reads the pooler; another head has no place in either format."""
    path = checkpoints.adapter(tmp_path / "a.safetensors", opened.base, head_input=head_input)
    adapter = load(path, opened)
    with pytest.raises(errors.BadArtifact, match=f"'linear' on '{head_input}'") as caught:
        bitinfer.write(adapter, opened.base)
    assert caught.value.reason == "NotExpressible"
    with pytest.raises(errors.BadArtifact, match=f"'linear' on '{head_input}'") as caught:
        merging.merge(adapter, opened, tmp_path / "out")
    assert "BertForSequenceClassification 'linear' on 'pooler'" in caught.value.message
    assert "--head linear --head-input pooler" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_merged_directory_answers_as_the_adapter(
    path: Path, opened: records.Opened, served: session.Session, tmp_path: Path
) -> None:
    """transformers loads it, with labels and problem, and gives the engine's logits."""
    out = tmp_path / "out"
    merging.merge(load(path, opened), opened, out)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.id2label == dict(enumerate(making.LABELS))
    assert model.config.problem_type == "single_label_classification"
    expected = served.classify(making.TEXTS, served.load_adapter(path))
    np.testing.assert_allclose(making.logits(model, out), expected, atol=1e-5, rtol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "out"]


def test_merged_and_imported_again_is_the_same_model(
    path: Path, opened: records.Opened, tmp_path: Path
) -> None:
    """The difference of merged and base gives the offsets back to the last bits."""
    before = load(path, opened)
    merging.merge(before, opened, tmp_path / "out")
    imported = huggingface.read(tmp_path / "out", opened, NONE, "out")
    assert imported.label_names == before.info.label_names
    assert imported.offsets.keys() == before.offsets.keys()
    for name, offset in before.offsets.items():
        np.testing.assert_allclose(imported.offsets[name], offset, atol=1e-6, rtol=0)
    for name, array in before.head.items():
        np.testing.assert_array_equal(imported.head[name], array)


@pytest.mark.parametrize(
    ("family", "task", "kind", "head_input", "problem"),
    [
        ("roberta", "SequenceClassification", "dense-tanh", "cls", "multi_label"),
        ("xlm-roberta", "TokenClassification", "linear", "token", "token"),
        ("distilbert", "SequenceClassification", "dense-relu", "cls", "single_label"),
        ("electra", "SequenceClassification", "dense-gelu", "cls", "single_label"),
        ("mpnet", "SequenceClassification", "dense-tanh", "cls", "single_label"),
        ("bert", "TokenClassification", "linear", "token", "token"),
    ],
)
def test_every_family_merges(
    tmp_path: Path, family: str, task: str, kind: str, head_input: str, problem: str
) -> None:
    """Names and architecture are the family's own, and nothing is left to chance initialisation."""
    opened = records.open_base(str(making.save(tmp_path / "base", tiny.build(family).model)))
    path = checkpoints.adapter(
        tmp_path / "a.safetensors", opened.base, kind=kind, head_input=head_input, problem=problem
    )
    adapter = load(path, opened)
    merging.merge(adapter, opened, tmp_path / "out")
    auto = getattr(transformers, f"AutoModelFor{task}")
    model, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(model).__name__.endswith(f"For{task}")
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    found = tensors.of_safetensors(tmp_path / "out" / "model.safetensors", "out").arrays
    shown = "classifier.out_proj.bias" if "classifier.out_proj.bias" in found else "classifier.bias"
    np.testing.assert_array_equal(found[shown], adapter.head["out.bias"])
    if family == "roberta":
        exported = bitinfer.write(adapter, opened.base)
        value = torch.load(io.BytesIO(exported), weights_only=True)
        choices = records.Choices(problem=problem)
        back = bitinfer.read(making.found(value), opened.base, choices, "x")
        assert (back.layout.kind, back.layout.input) == (kind, head_input)


def test_an_adapter_s_own_pooler_is_merged(model: Any, tmp_path: Path) -> None:
    """A base without pooler gets the adapter's; BitInfer's format has no place for it."""
    bare = transformers.BertModel(model.config, add_pooling_layer=False)
    opened = records.open_base(str(making.save(tmp_path / "base", bare)))
    rng = np.random.default_rng(0)
    head = {
        "out.weight": rng.standard_normal((3, 24)).astype(np.float32),
        "out.bias": np.zeros(3, np.float32),
        "pooler.weight": rng.standard_normal((24, 24)).astype(np.float32),
        "pooler.bias": np.ones(24, np.float32),
    }
    path = tmp_path / "a.safetensors"
    adapter_file.write(
        path,
        shape=opened.base.shape,
        base_digest=opened.base.digest,
        tokenizer_digest=opened.base.tokenizer_digest,
        head=adapter_file.Head(kind="linear", input="pooler", problem="single_label"),
        label_names=making.LABELS,
        offsets={},
        head_tensors=head,
    )
    merging.merge(load(path, opened), opened, tmp_path / "out")
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    served = session.Session.open(str(tmp_path / "base"))
    expected = served.classify(making.TEXTS, served.load_adapter(path))
    found = making.logits(merged.eval(), tmp_path / "out")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(errors.BadArtifact, match="no place for"):
        bitinfer.write(load(path, opened), opened.base)


def test_nothing_is_overwritten_and_failures_leave_nothing(
    path: Path, opened: records.Opened, tmp_path: Path
) -> None:
    """An existing directory and a missing parent are refused, with what to do."""
    (tmp_path / "out").mkdir()
    with pytest.raises(errors.InvalidRequest, match="exists already"):
        merging.merge(load(path, opened), opened, tmp_path / "out")
    with pytest.raises(errors.InvalidRequest, match=r"'.*gone' is not a directory"):
        merging.merge(load(path, opened), opened, tmp_path / "gone" / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "out"]


def test_what_gets_lost_is_told(opened: records.Opened, tmp_path: Path) -> None:
    """Temperature and thresholds are no part of the other formats."""
    path = checkpoints.adapter(
        tmp_path / "a.safetensors",
        opened.base,
        temperature=1.5,
        thresholds={"label0": 0.4},
        problem="multi_label",
    )
    info = load(path, opened).info
    assert records.lost(info) == ("the temperature 1.5", "its thresholds")
    merging.merge(load(path, opened), opened, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
