"""BitInfer's files come in as adapters of a named base, or are refused by name."""

import base64
import contextlib
import dataclasses
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertd import errors, families
from bertd.checkpoint import adapter_file
from bertd.engine import session
from bertd.interchange import bitinfer, records, tensors
from tests.interchange import making

NONE = records.Choices()
Parts = dict[str, dict[str, torch.Tensor]]


@pytest.fixture
def parts(model: Any, tuned: Any) -> Parts:
    """A whole file's contents."""
    return making.parts(model, tuned)


@pytest.fixture(scope="module")
def raw(model: Any, tuned: Any) -> bytes:
    """A whole file."""
    return making.saved(making.parts(model, tuned))


@pytest.fixture(scope="module")
def converted(raw: bytes, base_folder: Path) -> bytes:
    """The adapter file that it becomes."""
    return bitinfer.convert(raw, base=str(base_folder), label_names=making.LABELS)


def refusal(
    parts: Parts, opened: records.Opened, choices: records.Choices = NONE
) -> errors.BadArtifact:
    """The refusal of a file with these contents."""
    try:
        imported = bitinfer.read(making.found(parts), opened.base, choices, "sent.pt")
        records.encode(imported, opened.base, "sent.pt")
    except errors.BadArtifact as error:
        return error
    pytest.fail("was not refused")


def test_a_bitinfer_file_answers_as_the_merged_model(
    model: Any,
    tuned: Any,
    base_folder: Path,
    served: session.Session,
    converted: bytes,
    tmp_path: Path,
) -> None:
    """A file made by the rules serves the logits of base plus offset, within 1e-5 (B1)."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(converted)
    found = served.classify(making.TEXTS, served.load_adapter(path))
    expected = making.logits(tuned, base_folder)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert abs(expected - making.logits(model, base_folder)).max() > 0.1


def test_text_and_bytes_are_one(raw: bytes, converted: bytes, opened: records.Opened) -> None:
    """The file and its base64, as text, as bytes and with line breaks, give the same bytes (B2)."""
    text = base64.b64encode(raw)
    made = bitinfer.convert(text.decode(), base=opened.base, label_names=making.LABELS)
    assert made == converted
    for data in (raw, text, text.decode(), base64.encodebytes(raw), bitinfer.to_text(raw)):
        assert bitinfer.decode(data, "x") == raw
    adapter = adapter_file.parse(made, opened.base)
    assert adapter.info.label_names == making.LABELS
    assert (adapter.info.head.kind, adapter.info.head.input) == ("linear", "pooler")


def test_numbers_arrive_bit_by_bit(parts: Parts, opened: records.Opened) -> None:
    """Offsets and head are the file's float32 numbers; labels are numbered where none are named."""
    imported = bitinfer.read(making.found(parts), opened.base, NONE, "sent.pt")
    adapter = adapter_file.parse(records.encode(imported, opened.base, "sent.pt"), opened.base)
    names = families.bias_names(opened.base.shape)
    assert len(adapter.offsets) == 8 * 2 + 2
    for ours, offset in adapter.offsets.items():
        np.testing.assert_array_equal(offset, parts["offsets"][f"bert.{names[ours]}"].detach())
    np.testing.assert_array_equal(
        adapter.head["out.weight"], parts["classifier"]["classifier.weight"].detach()
    )
    assert adapter.info.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert adapter.info.head.problem == "single_label"


def with_offset(name: str, value: torch.Tensor) -> Callable[[Parts], Parts]:
    """A change that puts one offset in."""
    return lambda parts: parts | {"offsets": parts["offsets"] | {name: value}}


def without(section: str, name: str) -> Callable[[Parts], Parts]:
    """A change that takes one tensor out."""
    return lambda parts: parts | {section: {k: v for k, v in parts[section].items() if k != name}}


def with_head(name: str, value: torch.Tensor) -> Callable[[Parts], Parts]:
    """A change that puts one tensor of the head in."""
    return lambda parts: parts | {"classifier": parts["classifier"] | {name: value}}


QUERY = "bert.encoder.layer.0.attention.self.query.bias"
REFUSED: list[tuple[Callable[[Parts], Parts], str, str, str]] = [
    (
        with_offset("bert.encoder.layer.0.attention.self.qury.bias", torch.ones(24)),
        "UnknownTensor",
        "unknown 'bert.encoder.layer.0.attention.self.qury.bias'",
        f"did you mean '{QUERY}'?",
    ),
    (with_offset("bert.encoder.layer.9.output.bias", torch.ones(24)), "UnknownTensor", ".9.", ""),
    (
        with_offset(QUERY.removeprefix("bert."), torch.ones(24)),
        "UnknownTensor",
        "unknown 'encoder.layer.0",
        "--key-prefix bert.",
    ),
    (with_offset("classifier.bias", torch.ones(3)), "UnknownTensor", "'classifier.bias'", ""),
    (
        with_offset("bert.pooler.dense.weight", torch.full((24, 24), 0.5)),
        "WeightsMoved",
        "'bert.pooler.dense.weight' by up to 0.5",
        "biases only",
    ),
    (with_offset(QUERY, torch.ones(23)), "WrongShape", "shape [23]; it must be [24]", ""),
    (with_offset(QUERY, torch.ones(1, 24)), "WrongShape", "shape [1, 24]; it must be [24]", ""),
    (with_offset(QUERY, torch.ones(24).int()), "UnsupportedDtype", "dtype 'int32'", ""),
    (with_offset(QUERY, torch.full((24,), torch.nan)), "NotFinite", "query.bias'", ""),
    (without("classifier", "classifier.bias"), "MissingHead", "lacks 'classifier.bias'", "head"),
    (without("classifier", "classifier.weight"), "MissingHead", "lacks 'classifier.weight'", ""),
    (lambda parts: {"offsets": parts["offsets"]}, "MissingHead", "'classifier.weight', 'class", ""),
    (with_head("score.weight", torch.ones(3, 24)), "UnknownTensor", "'score.weight'", ""),
    (with_head("classifier.weight", torch.ones(4, 24)), "WrongShape", "must be [3, 24]", ""),
    (with_head("classifier.bias", torch.ones(())), "BadLabels", "1 to 10000 labels", ""),
    (lambda parts: parts | {"more": parts["classifier"]}, "NotBitInfer", "'more/classifier.w", ""),
    (lambda parts: parts["offsets"], "NotBitInfer", "`offsets` and `classifier`", "directory"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "words", "hint"), REFUSED)
def test_what_bitinfer_would_ignore_is_refused_by_name(
    parts: Parts,
    opened: records.Opened,
    change: Callable[[Parts], Any],
    reason: str,
    words: str,
    hint: str,
) -> None:
    """Unknown, misshapen, moved and missing tensors name the file and the key (B8)."""
    changed = change(parts)
    if all(isinstance(value, torch.Tensor) for value in changed.values()):
        changed = {name: {"x": value} for name, value in changed.items()}
    error = refusal(changed, opened)
    assert error.reason == reason
    assert words in error.message
    assert hint in error.hint
    assert "sent.pt" in error.message or reason == "BadLabels"


def test_a_bare_models_keys_need_a_prefix(parts: Parts, opened: records.Opened) -> None:
    """Keys without 'bert.' are taken with --key-prefix, and only then (B8)."""
    bare = {name.removeprefix("bert."): offset for name, offset in parts["offsets"].items()}
    imported = bitinfer.read(
        making.found(parts | {"offsets": bare}),
        opened.base,
        records.Choices(key_prefix="bert."),
        "sent.pt",
    )
    assert len(imported.offsets) == 18
    assert refusal(parts, opened, records.Choices(key_prefix="bert.")).reason == "UnknownTensor"


def test_weights_that_did_not_move_are_left_out(
    model: Any, parts: Parts, opened: records.Opened
) -> None:
    """A file made from a state dict holds every weight; zeros are dropped, with a note."""
    zeros = {
        name: torch.zeros_like(tensor)
        for name, tensor in model.state_dict().items()
        if name not in parts["offsets"] and "classifier" not in name
    }
    zeros["bert.embeddings.position_ids"] = torch.zeros(1, 40, dtype=torch.int64)
    whole = parts | {"offsets": parts["offsets"] | zeros}
    imported = bitinfer.read(making.found(whole), opened.base, NONE, "sent.pt")
    assert len(imported.offsets) == 18
    assert imported.notes == (f"left out {len(zeros)} weights whose offsets are all zero",)


def test_choices_decide_what_the_file_leaves_open(parts: Parts, opened: records.Opened) -> None:
    """Labels, problem and the head's input are the caller's; a wrong number of labels is told."""
    choices = records.Choices(label_names=making.LABELS, problem="multi_label", head_input="cls")
    imported = bitinfer.read(making.found(parts), opened.base, choices, "sent.pt")
    info = adapter_file.parse(records.encode(imported, opened.base, "x"), opened.base).info
    assert (info.label_names, info.head.problem, info.head.input) == (
        making.LABELS,
        "multi_label",
        "cls",
    )
    with pytest.raises(errors.InvalidRequest, match="has 3 outputs, but 2 label names"):
        bitinfer.read(
            making.found(parts), opened.base, records.Choices(label_names=("a", "b")), "sent.pt"
        )


def test_one_output_is_a_regression(opened: records.Opened) -> None:
    """A head of one output means a number, as transformers has it."""
    head = {"classifier.weight": torch.ones(1, 24), "classifier.bias": torch.ones(1)}
    found = making.found({"offsets": {}, "classifier": head})
    imported = bitinfer.read(found, opened.base, NONE, "x")
    assert imported.problem == "regression"
    assert imported.notes == ("no bias is offset: the head is all there is",)


def test_a_base_without_a_pooler_is_refused(parts: Parts, opened: records.Opened) -> None:
    """The head reads the pooler, so the base must have one; the pooler's bias is unknown then."""
    bare = dataclasses.replace(opened.base, has_pooler=False)
    imported = bitinfer.read(making.found(parts), bare, NONE, "sent.pt")
    with pytest.raises(errors.BadArtifact, match="reads the pooler, which the base lacks"):
        records.encode(imported, bare, "sent.pt")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrap", [making.saved, pickle.dumps], ids=["archive", "plain"])
def test_code_in_a_pickle_is_never_run(
    tmp_path: Path, opened: records.Opened, wrap: Callable[[Any], bytes]
) -> None:
    """A `__reduce__` that makes a file is refused and leaves none (B3, checklist 84)."""
    sentinel = tmp_path / "sentinel"
    raw = wrap({"offsets": Evil(sentinel), "classifier": {}})
    with pytest.raises(errors.BadArtifact) as caught:
        bitinfer.convert(base64.b64encode(raw).decode(), base=opened.base)
    assert caught.value.reason in ("UnsafePickle", "BadPickle")
    assert not sentinel.exists()
    with contextlib.suppress(RuntimeError):  # torch itself refuses the plain one: after running it
        torch.load(io.BytesIO(raw), weights_only=False)
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("not base64!", "BadBase64"),
        ("ÄÖÜ", "BadBase64"),
        ("UEsDBBQ", "BadBase64"),
        ("", "BadBase64"),
        (b"", "BadBase64"),
        (b"\xff\xfe", "BadBase64"),
    ],
)
def test_bad_text_is_refused(opened: records.Opened, data: bytes | str, reason: str) -> None:
    """What is neither a file nor base64 text is refused before any process starts (B3)."""
    with pytest.raises(errors.BadArtifact) as caught:
        bitinfer.convert(data, base=opened.base)
    assert caught.value.reason == reason


def test_a_truncated_file_is_refused(raw: bytes, opened: records.Opened) -> None:
    """A file that lost its end is no archive (B3)."""
    with pytest.raises(errors.BadArtifact, match="no archive of tensors") as caught:
        bitinfer.convert(raw[:-200], base=opened.base)
    assert caught.value.reason == "BadPickle"


def test_size_of_a_bert_base_adapter(opened: records.Opened) -> None:
    """Offsets of query and output of BERT-base with three labels take at most 300 kB (B10)."""
    shape = families.shape(
        making.T
        | {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12}
        | {"intermediate_size": 3072}
    )
    shapes = families.tensor_shapes(shape)
    offsets = {
        ours: np.ones(shapes[ours], np.float32)
        for ours, theirs in families.bias_names(shape).items()
        if "query" in theirs or "output" in theirs
    }
    assert len(offsets) == 60
    head = {"out.weight": np.ones((3, 768), np.float32), "out.bias": np.ones(3, np.float32)}
    base = dataclasses.replace(opened.base, shape=shape)
    data = adapter_file.encode(
        shape=shape,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        head=adapter_file.Head(kind="linear", input="pooler", problem="single_label"),
        label_names=making.LABELS,
        offsets=offsets,
        head_tensors=head,
    )
    assert len(data) <= 300_000
    exported = bitinfer.write(adapter_file.parse(data, base), base)
    assert len(exported) <= 300_000


def test_other_families_bring_their_own_heads(tmp_path: Path) -> None:
    """A file of a RoBERTa classifier has a head of two layers, found by its names."""
    from tests import tiny

    built = tiny.build("roberta")
    folder = making.save(tmp_path / "base", built.model)
    opened = records.open_base(str(folder))
    found = making.found(making.parts(built.model, making.moved(built.model, seed=3)))
    imported = bitinfer.read(found, opened.base, NONE, "x")
    assert (imported.layout.kind, imported.layout.input) == ("dense-tanh", "cls")
    assert records.encode(imported, opened.base, "x")
    linear = {n: a for n, a in found.arrays.items() if not n.startswith("classifier/")}
    linear |= {
        "classifier/classifier.weight": np.ones((2, 24), np.float32),
        "classifier/classifier.bias": np.ones(2, np.float32),
    }
    tags = bitinfer.read(tensors.Found(arrays=linear, dtypes={}), opened.base, NONE, "x")
    assert (tags.layout.input, tags.problem) == ("token", "token")
