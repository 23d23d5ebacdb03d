"""Fine-tuned Hugging Face directories become adapters where only biases and head moved."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertd import errors
from bertd.checkpoint import adapter_file
from bertd.engine import session
from bertd.interchange import huggingface, records
from tests import tiny
from tests.interchange import making

NONE = records.Choices()


@pytest.fixture
def folder(tuned: Any, tmp_path: Path) -> Path:
    """A fine-tuned directory that may be changed."""
    twin = copy.deepcopy(tuned)
    twin.config.id2label = dict(enumerate(making.LABELS))
    twin.config.label2id = {name: index for index, name in enumerate(making.LABELS)}
    return making.save(tmp_path / "tuned", twin)


def adapter(folder: Path, opened: records.Opened) -> adapter_file.Adapter:
    """What a directory becomes."""
    imported = huggingface.read(folder, opened, NONE, "tuned")
    return adapter_file.parse(records.encode(imported, opened.base, "tuned"), opened.base)


def refusal(folder: Path, opened: records.Opened) -> errors.BadArtifact:
    """The refusal of a directory."""
    with pytest.raises(errors.BadArtifact) as caught:
        huggingface.read(folder, opened, NONE, "tuned")
    return caught.value


def test_a_bitfit_directory_serves_its_own_logits(
    tuned: Any, folder: Path, opened: records.Opened, served: session.Session, tmp_path: Path
) -> None:
    """The adapter on the base answers as the fine-tuned model; labels come from id2label."""
    found = adapter(folder, opened)
    assert found.info.label_names == making.LABELS
    assert found.info.training == {
        "importedFrom": {
            "format": "huggingface",
            "architecture": "BertForSequenceClassification",
        }
    }
    path = tmp_path / "a.safetensors"
    imported = huggingface.read(folder, opened, NONE, "tuned")
    path.write_bytes(records.encode(imported, opened.base, "tuned"))
    logits = served.classify(making.TEXTS, served.load_adapter(path))
    np.testing.assert_allclose(logits, making.logits(tuned, folder), atol=1e-5, rtol=0)


def test_biases_that_did_not_move_are_left_out(
    model: Any, opened: records.Opened, tmp_path: Path
) -> None:
    """Only offsets that are not zero are kept; without any, a note says so."""
    some = making.save(tmp_path / "some", making.moved(model, seed=2, only="query"))
    assert set(adapter(some, opened).offsets) == {"layers.0.query.bias", "layers.1.query.bias"}
    none = making.save(tmp_path / "none", making.moved(model, seed=2, only="nothing"))
    imported = huggingface.read(none, opened, NONE, "tuned")
    assert imported.offsets == {}
    assert "no bias differs" in imported.notes[0]


def test_pickled_weights_come_through_the_reading_process(
    folder: Path, tuned: Any, opened: records.Opened
) -> None:
    """pytorch_model.bin gives the same adapter as model.safetensors, buffers and all."""
    expected = adapter(folder, opened)
    (folder / "model.safetensors").unlink()
    state = tuned.state_dict() | {"bert.embeddings.position_ids": torch.arange(40)[None]}
    torch.save(state, folder / "pytorch_model.bin")
    found = adapter(folder, opened)
    assert found.offsets.keys() == expected.offsets.keys()
    for name, offset in expected.offsets.items():
        np.testing.assert_array_equal(found.offsets[name], offset)


def test_a_full_fine_tuning_is_refused(model: Any, opened: records.Opened, tmp_path: Path) -> None:
    """What moved is named, and how far it went; a few names stand for many."""
    twin = making.moved(model, seed=2)
    with torch.no_grad():
        twin.bert.encoder.layer[1].output.dense.weight[0, 0] += 0.25
    error = refusal(making.save(tmp_path / "one", twin), opened)
    assert error.reason == "WeightsMoved"
    assert "head: 'bert.encoder.layer.1.output.dense.weight'; most in" in error.message
    assert error.message.endswith("by 0.25")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    assert " and 16 more; most in " in refusal(making.save(tmp_path / "all", twin), opened).message


def test_a_norms_gain_is_no_bias(model: Any, opened: records.Opened, tmp_path: Path) -> None:
    """LayerNorm weights belong to the base, though BitFit's kin train them."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.bert.embeddings.LayerNorm.weight += 0.1
    error = refusal(making.save(tmp_path / "x", twin), opened)
    assert "'bert.embeddings.LayerNorm.weight'" in error.message


def change_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Rewrites one JSON file of a directory."""

    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


FAULTS: list[tuple[Callable[[Path], Any], str, str]] = [
    (
        change_json("config.json", lambda c: c.update(layer_norm_eps=1e-5)),
        "OtherShape",
        "another norm_eps than the base: 1e-05, not 1e-12",
    ),
    (
        change_json("config.json", lambda c: c.update(num_attention_heads=6)),
        "OtherShape",
        "another heads",
    ),
    (
        change_json("config.json", lambda c: c.update(architectures=["BertModel"])),
        "MissingHead",
        "no head: its architecture is 'BertModel'",
    ),
    (
        change_json("tokenizer.json", lambda t: t["model"]["vocab"].update(w58=99, w99=63)),
        "WrongTokenizer",
        "they differ in 'model'",
    ),
    (
        change_json("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"})),
        "WrongTokenizer",
        "they differ in 'normalizer'",
    ),
    (lambda folder: (folder / "tokenizer.json").unlink(), "MissingFile", "no 'tokenizer.json'"),
    (lambda folder: (folder / "config.json").unlink(), "MissingFile", "config.json"),
    (lambda folder: (folder / "model.safetensors").unlink(), "MissingFile", "model.safetensors"),
    (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "BadPickle",
        "pytorch_model.bin of tuned is no archive",
    ),
    (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "pytorch_model.bin").mkdir(),
        ),
        "NotAFile",
        "pytorch_model.bin of tuned must be a regular file",
    ),
]


@pytest.mark.parametrize(("fault", "reason", "words"), FAULTS)
def test_other_models_are_refused(
    folder: Path, opened: records.Opened, fault: Callable[[Path], Any], reason: str, words: str
) -> None:
    """Another shape, tokenizer or no head says what is wrong with which directory."""
    fault(folder)
    error = refusal(folder, opened)
    assert error.reason == reason
    assert words in error.message


def test_padding_and_truncation_do_not_matter(folder: Path, opened: records.Opened) -> None:
    """A tokenizer saved after training often carries both; its ids are the same."""
    change_json(
        "tokenizer.json",
        lambda t: t.update(
            truncation={
                "direction": "Right",
                "max_length": 9,
                "strategy": "LongestFirst",
                "stride": 0,
            }
        ),
    )(folder)
    assert adapter(folder, opened).offsets


@pytest.mark.parametrize(
    ("family", "task", "kind", "reads"),
    [
        ("distilbert", "SequenceClassification", "dense-relu", "cls"),
        ("camembert", "SequenceClassification", "dense-tanh", "cls"),
        ("electra", "SequenceClassification", "dense-gelu", "cls"),
        ("bert", "TokenClassification", "linear", "token"),
    ],
)
def test_every_family_and_task(
    tmp_path: Path, family: str, task: str, kind: str, reads: str
) -> None:
    """The head is the architecture's own; a pooler that only one of the two has is no matter."""
    base = tiny.build(family, task).model
    opened = records.open_base(str(making.save(tmp_path / "base", base)))
    tuned = making.save(tmp_path / "tuned", making.moved(base, seed=4))
    found = adapter(tuned, opened)
    assert (found.info.head.kind, found.info.head.input) == (kind, reads)
    assert found.offsets


def test_a_base_without_pooler_gets_the_tuned_ones(model: Any, tuned: Any, tmp_path: Path) -> None:
    """The head's pooler travels in the adapter where the base has none."""
    bare = transformers.BertModel(model.config, add_pooling_layer=False)
    bare.load_state_dict(model.bert.state_dict(), strict=False)
    opened = records.open_base(str(making.save(tmp_path / "base", bare)))
    folder = making.save(tmp_path / "tuned", tuned)
    found = adapter(folder, opened)
    assert set(found.head) == {"out.weight", "out.bias", "pooler.weight", "pooler.bias"}
    path = tmp_path / "a.safetensors"
    imported = huggingface.read(folder, opened, NONE, "tuned")
    path.write_bytes(records.encode(imported, opened.base, "tuned"))
    served = session.Session.open(str(tmp_path / "base"))
    logits = served.classify(making.TEXTS, served.load_adapter(path))
    np.testing.assert_allclose(logits, making.logits(tuned, folder), atol=1e-5, rtol=0)
    shutil.rmtree(folder)
