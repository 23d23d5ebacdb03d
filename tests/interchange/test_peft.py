"""PEFT's BEFT adapters, made by PEFT itself, become adapters of the same base."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertd import errors
from bertd.checkpoint import adapter_file, safetensors
from bertd.engine import session
from bertd.interchange import peft, records, tensors
from tests import tiny
from tests.interchange import making

NONE = records.Choices()
CLASSIFIER = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
MODULES = ["query", "output.dense", "intermediate.dense", "pooler.dense"]


def trained(model: Any, folder: Path, **options: Any) -> Any:
    """Wraps a model in BEFT, moves what is trainable, saves it; returns the wrapped model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two libraries warn about each other
        import peft as library

        asked = {"target_modules": MODULES} | options
        wrapped = library.get_peft_model(copy.deepcopy(model), library.BeftConfig(**asked)).eval()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """A BEFT adapter of model T."""
    trained(model, tmp_path / "beft", **CLASSIFIER)
    return tmp_path / "beft"


def refusal(folder: Path, opened: records.Opened) -> errors.BadArtifact:
    """The refusal of a directory."""
    with pytest.raises(errors.BadArtifact) as caught:
        peft.read(folder, opened, NONE, "beft")
    return caught.value


def rewrite(folder: Path, change: Any) -> None:
    """Changes the tensors of an adapter."""
    path = folder / peft.WEIGHTS
    arrays = dict(tensors.of_safetensors(path, "x").arrays)
    path.write_bytes(safetensors.encode(change({n: a.copy() for n, a in arrays.items()}), {}))


@pytest.mark.parametrize("save_head", [True, False])
def test_a_beft_adapter_serves_peft_s_logits(
    model: Any,
    opened: records.Opened,
    served: session.Session,
    base_folder: Path,
    tmp_path: Path,
    save_head: bool,
) -> None:
    """With the head that it saved, or with the base's own, the answers are PEFT's."""
    wrapped = trained(model, tmp_path / "beft", **(CLASSIFIER if save_head else {}))
    imported = peft.read(tmp_path / "beft", opened, NONE, "beft")
    assert len(imported.offsets) == 2 * 4 + 1
    assert bool(imported.notes) is not save_head
    path = tmp_path / "a.safetensors"
    path.write_bytes(records.encode(imported, opened.base, "beft"))
    logits = served.classify(making.TEXTS, served.load_adapter(path))
    np.testing.assert_allclose(logits, making.logits(wrapped, base_folder), atol=1e-5, rtol=0)


def test_heads_of_two_layers_and_bare_names(tmp_path: Path) -> None:
    """A RoBERTa head is found by its names; an adapter of a bare model has no prefix."""
    built = tiny.build("roberta").model
    opened = records.open_base(str(making.save(tmp_path / "base", built)))
    trained(built, tmp_path / "beft", **CLASSIFIER | {"target_modules": ["value"]})
    imported = peft.read(tmp_path / "beft", opened, NONE, "beft")
    assert imported.layout.kind == "dense-tanh"
    assert records.encode(imported, opened.base, "beft")
    rewrite(
        tmp_path / "beft",
        lambda arrays: {name.replace(".roberta.", "."): array for name, array in arrays.items()},
    )
    assert peft.read(tmp_path / "beft", opened, NONE, "b").offsets.keys() == imported.offsets.keys()


def test_token_classification_reads_tokens(folder: Path, opened: records.Opened) -> None:
    """The config's task says what the head reads; labels may be given."""
    config = json.loads((folder / peft.CONFIG).read_text()) | {"task_type": "TOKEN_CLS"}
    (folder / peft.CONFIG).write_text(json.dumps(config))
    choices = records.Choices(label_names=("O", "B-X", "I-X"))
    imported = peft.read(folder, opened, choices, "beft")
    info = adapter_file.parse(records.encode(imported, opened.base, "x"), opened.base).info
    assert (info.head.input, info.head.problem) == ("token", "token")
    assert info.label_names == ("O", "B-X", "I-X")


def test_a_pickled_adapter_comes_through_the_reading_process(
    folder: Path, opened: records.Opened
) -> None:
    """adapter_model.bin gives the same offsets."""
    expected = peft.read(folder, opened, NONE, "beft").offsets
    state = {
        name: torch.from_numpy(array.copy())
        for name, array in tensors.of_safetensors(folder / peft.WEIGHTS, "x").arrays.items()
    }
    (folder / peft.WEIGHTS).unlink()
    torch.save(state, folder / peft.PICKLED)
    found = peft.read(folder, opened, NONE, "beft").offsets
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.beft_bias"


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (
            lambda arrays: arrays | {QUERY.replace("query", "qury"): np.zeros((1, 24), "f4")},
            "UnknownTensor",
            "offsets the unknown 'base_model.model.bert.encoder.layer.0.attention.self.qury",
        ),
        (
            lambda arrays: arrays | {QUERY: np.zeros((1, 23), "f4")},
            "WrongShape",
            "with shape [1, 23]; it must be [1, 24]",
        ),
        (
            lambda arrays: (
                arrays | {"base_model.model.classifier.beft_bias": np.zeros((1, 3), "f4")}
            ),
            "UnknownTensor",
            "'base_model.model.classifier.beft_bias'",
        ),
        (
            lambda arrays: arrays | {QUERY.replace("beft_bias", "lora_A"): np.zeros((1, 2), "f4")},
            "UnknownTensor",
            "unknown head tensor 'bert.encoder.layer.0.attention.self.query.lora_A'",
        ),
        (
            lambda arrays: {n: a for n, a in arrays.items() if "classifier.bias" not in n},
            "MissingHead",
            "lacks 'classifier.bias'",
        ),
        (
            lambda arrays: arrays | {QUERY.replace(".bert.", "."): np.zeros((1, 24), "f4")},
            "UnknownTensor",
            "self.query.beft_bias' under two names",
        ),
    ],
)
def test_bad_tensors_are_named(
    folder: Path, opened: records.Opened, change: Any, reason: str, words: str
) -> None:
    """Unknown, misshapen and missing tensors name the directory and the tensor (B8)."""
    rewrite(folder, change)
    error = refusal(folder, opened)
    assert error.reason == reason
    assert words in error.message


def test_numbers_of_other_kinds_are_never_left_out(folder: Path, opened: records.Opened) -> None:
    """A tensor of whole or double numbers is refused, not answered without it (B8)."""
    from safetensors import torch as library

    state = library.load_file(folder / peft.WEIGHTS)
    for dtype, named in ((torch.int32, "I32"), (torch.float64, "F64")):
        library.save_file(state | {QUERY: state[QUERY].to(dtype)}, folder / peft.WEIGHTS)
        error = refusal(folder, opened)
        assert error.reason == "UnsupportedDtype"
        assert f"'{QUERY}' with dtype '{named}'" in error.message


def test_a_base_s_head_must_read_what_the_adapter_s_does(
    model: Any, opened: records.Opened, tmp_path: Path
) -> None:
    """An adapter that tags tokens, and saved no head, cannot take a classifier's."""
    trained(model, tmp_path / "beft")
    config = json.loads((tmp_path / "beft" / peft.CONFIG).read_text()) | {"task_type": "TOKEN_CLS"}
    (tmp_path / "beft" / peft.CONFIG).write_text(json.dumps(config))
    error = refusal(tmp_path / "beft", opened)
    assert error.reason == "MissingHead"
    assert "that of the base reads 'pooler', not 'token'" in error.message


def test_other_kinds_of_adapter_are_refused(folder: Path, opened: records.Opened) -> None:
    """LoRA moves weights; a config that is no JSON, and a directory without tensors, are told."""
    (folder / peft.CONFIG).write_text('{"peft_type": "LORA"}')
    error = refusal(folder, opened)
    assert (error.reason, "of type 'LORA'" in error.message) == ("NotBeft", True)
    (folder / peft.CONFIG).write_text("{")
    assert refusal(folder, opened).reason == "BadJson"
    (folder / peft.CONFIG).write_text('{"peft_type": "BEFT"}')
    (folder / peft.WEIGHTS).unlink()
    assert refusal(folder, opened).reason == "SourceNotFound"


def test_a_tokenizer_beside_it_must_be_the_base_s(folder: Path, opened: records.Opened) -> None:
    """PEFT saves a tokenizer where the trainer had one; another one is refused."""
    making.save_tokenizer(folder)
    assert peft.read(folder, opened, NONE, "beft").offsets
    making.save_tokenizer(folder, words=58)
    assert refusal(folder, opened).reason == "WrongTokenizer"


def test_no_head_anywhere_is_refused(model: Any, tmp_path: Path) -> None:
    """A base without a head cannot lend one."""
    bare = transformers.BertModel(model.config)
    bare.load_state_dict(model.bert.state_dict())
    opened = records.open_base(str(making.save(tmp_path / "base", bare)))
    trained(model, tmp_path / "beft")
    error = refusal(tmp_path / "beft", opened)
    assert error.reason == "MissingHead"
    assert "modules_to_save" in error.hint
