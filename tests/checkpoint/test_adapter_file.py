"""Adapter files: written and read back exactly, or refused naming what is wrong."""

import hashlib
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bertd import errors, families
from bertd.checkpoint import adapter_file, files, safetensors, sources
from tests.checkpoint import making

FFN_BIAS = "encoder.layer.1.output.dense.bias"


def refusal(path: Path, *, has_pooler: bool = True) -> errors.BadArtifact:
    """What reading this file as an adapter of the small base says."""
    with pytest.raises(errors.BadArtifact) as caught:
        adapter_file.read(path, making.SHAPE, has_pooler, what="adapters/x.safetensors")
    assert caught.value.message.startswith(("adapters/x.safetensors ", "the header", "`bertd."))
    assert "adapters/x.safetensors" in caught.value.message
    return caught.value


def write(path: Path, **change: Any) -> str:
    """Write a valid adapter, with some arguments changed."""
    head = change.get("head", making.LINEAR)
    labels = change.get("label_names", ("no", "yes"))
    arguments: dict[str, Any] = {
        "shape": making.SHAPE,
        "base_digest": making.BASE_DIGEST,
        "tokenizer_digest": making.TOKENIZER_DIGEST,
        "head": head,
        "label_names": labels,
        "offsets": {"layers.0.down.bias": np.arange(8, dtype=np.float32)},
        "head_tensors": making.head_tensors(head, len(labels)),
    }
    return adapter_file.write(path, **(arguments | change))


@pytest.mark.parametrize("kind", families.HEAD_KINDS)
@pytest.mark.parametrize("source", families.HEAD_INPUTS)
def test_what_is_written_is_read_back(tmp_path: Path, kind: str, source: str) -> None:
    """Every kind of head on every input survives a round trip with all of its record."""
    path = tmp_path / "a.safetensors"
    problem = "token" if source == "token" else "multi_label"
    head = adapter_file.Head(kind=kind, input=source, problem=problem)
    offsets = {
        ours: np.full(families.tensor_shapes(making.SHAPE)[ours], 0.25, np.float32)
        for ours in families.bias_names(making.SHAPE)
    }
    tensors = making.head_tensors(head, 3)
    digest = write(
        path,
        head=head,
        label_names=("a", "b", "ç"),
        offsets=offsets,
        head_tensors=tensors,
        temperature=1.5,
        thresholds={"b": 0.7},
        training={"data": "x.jsonl", "seed": 1, "metric": {"name": "f1", "value": 0.5}},
    )
    read = adapter_file.read(path, making.SHAPE, True)
    assert read.info == adapter_file.read_info(path)
    assert read.info.head == head
    assert read.info.digest == digest
    assert read.info.file_bytes == path.stat().st_size
    assert read.info.label_names == ("a", "b", "ç")
    assert (read.info.temperature, read.info.thresholds) == (1.5, {"b": 0.7})
    assert read.info.training["metric"] == {"name": "f1", "value": 0.5}
    for given, found in ((offsets, read.offsets), (tensors, read.head)):
        assert given.keys() == found.keys()
        for name, array in given.items():
            np.testing.assert_array_equal(found[name], array)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    """An F16 file holds half the bytes and reads as the rounded numbers."""
    path = tmp_path / "a.safetensors"
    value = np.float32([1.0001] * 8)
    write(path, offsets={"layers.0.down.bias": value}, dtype="F16")
    found = adapter_file.read(path, making.SHAPE, True).offsets["layers.0.down.bias"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, value.astype(np.float16).astype(np.float32))


def test_the_same_adapter_has_the_same_bytes(tmp_path: Path) -> None:
    """Writing twice gives one digest, and leaves no temporary file."""
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert write(first) == write(second)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_names_lie_in_the_file_as_in_the_checkpoint(tmp_path: Path) -> None:
    """Tensors carry the checkpoint's own names behind their section."""
    path = tmp_path / "a.safetensors"
    write(path, head=making.DENSE)
    assert set(safetensors.locate({"a": path})) == {
        "offset.encoder.layer.0.output.dense.bias",
        "head.classifier.dense.weight",
        "head.classifier.dense.bias",
        "head.classifier.out_proj.weight",
        "head.classifier.out_proj.bias",
    }


def test_prefixed_and_bare_names_are_one(tmp_path: Path) -> None:
    """Names with the family's prefix are accepted as the bare model's (B8)."""
    tensors, metadata = making.adapter_parts()
    prefixed = {name.replace("offset.", "offset.bert."): array for name, array in tensors.items()}
    path = making.adapter(tmp_path / "a.safetensors", prefixed, metadata)
    read = adapter_file.read(path, making.SHAPE, True)
    assert set(read.offsets) == {"layers.0.down.bias", "embeddings.norm.bias"}


def test_a_base_without_pooler_takes_the_adapters_own(tmp_path: Path) -> None:
    """A head on the pooler brings the pooler that the base lacks, or is missing a part."""
    path = tmp_path / "a.safetensors"
    head = adapter_file.Head(kind="linear", input="pooler", problem="single_label")
    pooler = {"pooler.weight": np.eye(8, dtype=np.float32), "pooler.bias": np.zeros(8, np.float32)}
    write(path, head=head, head_tensors=making.head_tensors(head, 2) | pooler)
    assert set(adapter_file.read(path, making.SHAPE, False).head) > set(pooler)
    assert refusal(path, has_pooler=True).reason == "UnknownTensor"
    write(path, head=head)
    error = refusal(path, has_pooler=False)
    assert error.reason == "MissingHead"
    assert "'head.pooler.dense.weight'" in error.message


def test_a_bias_that_the_base_lacks_cannot_be_offset(tmp_path: Path) -> None:
    """A pooler's offset on a base without pooler is an unknown tensor."""
    path = tmp_path / "a.safetensors"
    write(path, offsets={"pooler.bias": np.ones(8, np.float32)})
    assert "offset.pooler.dense.bias" in refusal(path, has_pooler=False).message


def with_tensor(name: str, value: Any) -> Any:
    """A change that puts one tensor in."""
    return lambda tensors: tensors | {name: np.asarray(value, np.float32)}


def without(name: str) -> Any:
    """A change that takes one tensor out."""
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


ZEROS = [0.0] * 8
TENSORS: list[tuple[Any, str, str, str]] = [
    (
        with_tensor("offset.encoder.layer.1.outptu.dense.bias", ZEROS),
        "UnknownTensor",
        "holds the unknown tensor 'offset.encoder.layer.1.outptu.dense.bias'",
        f"did you mean 'offset.{FFN_BIAS}'?",
    ),
    (with_tensor("offset.encoder.layer.2.output.dense.bias", ZEROS), "UnknownTensor", ".2.", ""),
    (
        with_tensor("offset.encoder.layer.0.output.dense.weight", np.zeros((8, 16))),
        "UnknownTensor",
        "'offset.encoder.layer.0.output.dense.weight'",
        "an adapter offsets biases only",
    ),
    (with_tensor(FFN_BIAS, ZEROS), "UnknownTensor", f"'{FFN_BIAS}'", f"'offset.{FFN_BIAS}'"),
    (with_tensor("head.classifier.dense.bias", ZEROS), "UnknownTensor", "classifier.dense", ""),
    (with_tensor("extra", ZEROS), "UnknownTensor", "'extra'", ""),
    (
        with_tensor("offset.bert.encoder.layer.0.output.dense.bias", ZEROS),
        "UnknownTensor",
        "under two names",
        "",
    ),
    (with_tensor(f"offset.{FFN_BIAS}", [0.0] * 9), "WrongShape", "shape [9]; it must be [8]", ""),
    (with_tensor(f"offset.{FFN_BIAS}", [ZEROS]), "WrongShape", "shape [1, 8]; it must be", ""),
    (with_tensor("head.classifier.bias", [0.0] * 3), "WrongShape", "it must be [2]", ""),
    (with_tensor("head.classifier.weight", np.zeros((2, 9))), "WrongShape", "must be [2, 8]", ""),
    (with_tensor("head.classifier.weight", np.zeros((3, 8))), "WrongShape", "must be [2, 8]", ""),
    (
        with_tensor(f"offset.{FFN_BIAS}", [float("nan"), *ZEROS[1:]]),
        "NotFinite",
        f"has NaN or infinity in 'offset.{FFN_BIAS}'",
        "",
    ),
    (with_tensor("head.classifier.bias", [float("inf"), 0.0]), "NotFinite", "classifier.bias", ""),
    (without("head.classifier.bias"), "MissingHead", "lacks 'head.classifier.bias'", ""),
    (without("head.classifier.weight"), "MissingHead", "lacks 'head.classifier.weight'", ""),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason", "words", "hint"), TENSORS)
def test_bad_tensors_are_named(
    tmp_path: Path, change: Any, reason: str, words: str, hint: str
) -> None:
    """Unknown, misshapen, non-finite and missing tensors name the file and the key.

    (B8, checklist 86)
    """
    tensors, metadata = making.adapter_parts()
    error = refusal(making.adapter(tmp_path / "x.safetensors", change(tensors), metadata))
    assert error.reason == reason
    assert words in error.message
    assert hint in error.hint


def test_integers_are_no_offsets(tmp_path: Path) -> None:
    """A tensor of another dtype is refused by name (checklist 86)."""
    tensors, metadata = making.adapter_parts()
    path = making.adapter(tmp_path / "x.safetensors", tensors, metadata)
    path.write_bytes(path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    assert refusal(path).reason == "UnsupportedDtype"


def head_json(**change: Any) -> str:
    """A head's metadata, changed."""
    head = {"kind": "linear", "input": "mean", "problem": "single_label"} | change
    return json.dumps({key: value for key, value in head.items() if value is not None})


METADATA: list[tuple[dict[str, str | None], str]] = [
    ({"bertd.format": None}, "must have 'adapter/1' as `bertd.format`"),
    ({"bertd.format": "adapter/2"}, "must have 'adapter/1' as `bertd.format`"),
    ({"bertd.labelnames": "[]"}, "unknown metadata 'bertd.labelnames'"),
    ({"bertd.base.sha256": None}, "lacks `bertd.base.sha256`"),
    ({"bertd.base.sha256": "AB" * 32}, "must have 64 hex digits as `bertd.base.sha256`"),
    ({"bertd.base.sha256": "ab" * 31}, "must have 64 hex digits as `bertd.base.sha256`"),
    ({"bertd.tokenizer.sha256": "x"}, "must have 64 hex digits as `bertd.tokenizer.sha256`"),
    ({"bertd.head": None}, "lacks `bertd.head`"),
    ({"bertd.head": "[]"}, "`bertd.head` of adapters/x.safetensors must be a JSON object"),
    ({"bertd.head": "{"}, "`bertd.head` of adapters/x.safetensors is not JSON"),
    ({"bertd.head": head_json(kind=None)}, "must give `kind`, `input` and `problem`"),
    ({"bertd.head": head_json(more=1)}, "must give `kind`, `input` and `problem`"),
    ({"bertd.head": head_json(kind="magic")}, "as `kind` of `bertd.head`, not 'magic'"),
    ({"bertd.head": head_json(input=["cls"])}, "as `input` of `bertd.head`, not a list"),
    ({"bertd.head": head_json(problem="span")}, "as `problem` of `bertd.head`, not 'span'"),
    ({"bertd.head": head_json(problem="token")}, "'token' as both `input` and `problem`"),
    ({"bertd.head": head_json(input="token")}, "'token' as both `input` and `problem`"),
    ({"bertd.labelNames": None}, "lacks `bertd.labelNames`"),
    ({"bertd.labelNames": "[]"}, "must list 1 to 10000 labels"),
    ({"bertd.labelNames": '{"a": 1}'}, "must list 1 to 10000 labels"),
    ({"bertd.labelNames": '["a", "a"]'}, "has 'a' twice"),
    ({"bertd.labelNames": '["a", 1]'}, "must hold strings"),
    ({"bertd.labelNames": '["a"]'}, "two labels or more for a 'single_label' head"),
    ({"bertd.labelNames": '["a", "\\ud800"]'}, "must be UTF-8 text"),
    ({"bertd.temperature": "0"}, "`bertd.temperature` over 0"),
    ({"bertd.temperature": "-1"}, "`bertd.temperature` over 0"),
    ({"bertd.temperature": "NaN"}, "must not hold NaN"),
    ({"bertd.temperature": "1e999"}, "`bertd.temperature` over 0"),
    ({"bertd.temperature": "1" + "0" * 400}, "`bertd.temperature` over 0"),
    ({"bertd.temperature": "true"}, "`bertd.temperature` over 0"),
    ({"bertd.thresholds": "[]"}, "`bertd.thresholds` of adapters/x.safetensors must be"),
    ({"bertd.thresholds": '{"yse": 0.5}'}, "sets a threshold for no label: 'yse'"),
    ({"bertd.thresholds": '{"yes": 2}'}, "a threshold from 0 to 1 for 'yes'"),
    ({"bertd.thresholds": '{"yes": "x"}'}, "a threshold from 0 to 1 for 'yes'"),
    (
        {"bertd.thresholds": '{"yes": 0.5}', "bertd.head": head_json(problem="regression")},
        "no `bertd.thresholds` for a 'regression' head",
    ),
    ({"bertd.training": "1"}, "`bertd.training` of adapters/x.safetensors must be a JSON object"),
    ({"bertd.training": json.dumps({"x": "y" * 70_000})}, "`bertd.training` record over"),
]


@pytest.mark.parametrize(("change", "words"), METADATA)
def test_bad_metadata_is_named(tmp_path: Path, change: dict[str, str | None], words: str) -> None:
    """Every key of the record is proved, and a bad one named; unknown ones are not ignored."""
    tensors, metadata = making.adapter_parts()
    changed = {key: text for key, text in (metadata | change).items() if text is not None}
    path = making.adapter(tmp_path / "x.safetensors", tensors, changed)
    assert words in refusal(path).message
    with pytest.raises(errors.BadArtifact):
        adapter_file.read_info(path)


def test_hints_for_mistyped_words(tmp_path: Path) -> None:
    """A mistyped key or label is met with the nearest one."""
    tensors, metadata = making.adapter_parts()
    for change, hint in (
        ({"bertd.labelnames": "[]"}, "did you mean 'bertd.labelNames'?"),
        ({"bertd.thresholds": '{"yess": 0.5}'}, "did you mean 'yes'?"),
    ):
        path = making.adapter(tmp_path / "x.safetensors", tensors, metadata | change)
        assert refusal(path).hint == hint


def test_other_tools_metadata_is_ignored(tmp_path: Path) -> None:
    """Keys without bertd's prefix are nobody's business, and defaults fill optional ones."""
    tensors, metadata = making.adapter_parts()
    path = making.adapter(tmp_path / "x.safetensors", tensors, metadata | {"format": "pt"})
    info = adapter_file.read_info(path)
    assert (info.temperature, info.thresholds, info.training) == (1.0, {}, {})


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    """A BitInfer file or any other pickle with the right suffix is refused (B8, checklist 84)."""
    path = tmp_path / "x.safetensors"
    torch.save({"offsets": {}, "classifier": {}}, path)
    assert refusal(path).reason == "PickleRefused"
    path.write_bytes(pickle.dumps({"offsets": list(range(100))}))
    assert refusal(path).reason == "PickleRefused"


def test_files_of_other_sizes_are_refused(tmp_path: Path) -> None:
    """An adapter that is empty, truncated, over the limit, absent or a FIFO never loads."""
    tensors, metadata = making.adapter_parts()
    path = making.adapter(tmp_path / "x.safetensors", tensors, metadata)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "is truncated" in refusal(path).message
    path.write_bytes(b"")
    assert "too short" in refusal(path).message
    os.truncate(path, sources.MAX_ADAPTER_BYTES + 1)
    assert refusal(path).reason == "TooLarge"
    path.unlink()
    assert refusal(path).reason == "SourceNotFound"
    os.mkfifo(path)
    assert refusal(path).reason == "NotAFile"


def test_another_base_or_tokenizer_is_refused(tmp_path: Path) -> None:
    """An adapter serves only on the base and the tokenizer that it was trained on (B8)."""
    tensors, metadata = making.adapter_parts()
    info = adapter_file.read_info(making.adapter(tmp_path / "x.safetensors", tensors, metadata))
    adapter_file.check_base(info, making.BASE_DIGEST, making.TOKENIZER_DIGEST)
    for base, tokenizer, reason in (
        ("ee" * 32, making.TOKENIZER_DIGEST, "WrongBase"),
        (making.BASE_DIGEST, "ee" * 32, "WrongTokenizer"),
    ):
        with pytest.raises(errors.BadArtifact, match="the adapter belongs to the") as caught:
            adapter_file.check_base(info, base, tokenizer)
        assert caught.value.reason == reason
        assert "ee" * 32 in caught.value.message


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A base of another width or depth refuses the adapter even where digests are not compared."""
    path = tmp_path / "x.safetensors"
    write(path)
    wide = families.shape(making.CONFIG | {"hidden_size": 16})
    with pytest.raises(errors.BadArtifact, match=r"must be \[16\]|must be \[2, 16\]"):
        adapter_file.read(path, wide, True)


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": {"layers.0.down.bias": np.full(8, 1e6, np.float32)}, "dtype": "F16"},
        {"offsets": {"layers.0.down.bias": np.full(8, np.nan, np.float32)}},
        {"offsets": {"layers.0.down.bias": np.zeros(9, np.float32)}},
        {"head_tensors": {}},
        {"temperature": float("nan")},
        {"training": {"value": float("nan")}},
        {"training": {"value": object()}},
        {"thresholds": {"maybe": 0.5}},
        {"label_names": ("no", "no")},
        {"base_digest": "short"},
    ],
)
def test_an_invalid_adapter_is_never_written(tmp_path: Path, change: dict[str, Any]) -> None:
    """What could not be read back leaves no file behind, and an older one as it was."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"older")
    with pytest.raises(errors.BadArtifact):
        write(path, **change)
    assert path.read_bytes() == b"older"
    assert [found.name for found in tmp_path.iterdir()] == ["x.safetensors"]


def test_writing_where_one_may_not_is_temporary(tmp_path: Path) -> None:
    """A directory that is gone is the disk's fault, not the adapter's."""
    with pytest.raises(errors.Temporary, match="could not be written"):
        write(tmp_path / "gone" / "x.safetensors")


def test_heads_of_checkpoints_and_adapters_have_the_same_shapes() -> None:
    """One table gives the shapes of both."""
    assert files.head_shapes("linear", 8, 2) == {"out.weight": (2, 8), "out.bias": (2,)}
    assert files.head_shapes("dense-relu", 8, 2)["dense.weight"] == (8, 8)


def base_of(**change: Any) -> Any:
    """As much of a base as an adapter is proved against."""
    facts = {
        "shape": making.SHAPE,
        "has_pooler": True,
        "digest": making.BASE_DIGEST,
        "tokenizer_digest": making.TOKENIZER_DIGEST,
    }
    return SimpleNamespace(**(facts | change))


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_bytes_are_proved_and_parsed_as_files_are(tmp_path: Path, dtype: str) -> None:
    """`prove`, `parse` and `read_for` agree, and none needs the disk but the last."""
    path = tmp_path / "x.safetensors"
    write(path, dtype=dtype)
    data = path.read_bytes()
    proved = adapter_file.prove(data, base_of())
    parsed = adapter_file.parse(data, base_of())
    read = adapter_file.read_for(path, base_of())
    assert proved == parsed.info == read.info == adapter_file.read_info(path)
    for name, array in read.offsets.items():
        np.testing.assert_array_equal(parsed.offsets[name], array)
        assert parsed.offsets[name].dtype == np.float32


def test_bytes_are_encoded_as_files_are_written(tmp_path: Path) -> None:
    """`encode` gives the bytes that `write` puts into a file."""
    path = tmp_path / "x.safetensors"
    digest = write(path)
    info = adapter_file.read_info(path)
    read = adapter_file.read(path, making.SHAPE, True)
    data = adapter_file.encode(
        shape=making.SHAPE,
        base_digest=info.base_digest,
        tokenizer_digest=info.tokenizer_digest,
        head=info.head,
        label_names=info.label_names,
        offsets=read.offsets,
        head_tensors=read.head,
        temperature=info.temperature,
        thresholds=info.thresholds,
        training=info.training,
    )
    assert data == path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.parametrize(("change", "reason", "words", "hint"), TENSORS)
def test_proving_refuses_what_reading_refuses(
    tmp_path: Path, change: Any, reason: str, words: str, hint: str
) -> None:
    """Without converting anything, `prove` finds every fault, twice in a row (B8)."""
    tensors, metadata = making.adapter_parts()
    data = making.adapter(tmp_path / "x.safetensors", change(tensors), metadata).read_bytes()
    for name in ("first", "second"):
        with pytest.raises(errors.BadArtifact) as caught:
            adapter_file.prove(data, base_of(), what=name)
        assert caught.value.reason == reason
        assert caught.value.message.startswith(f"{name} ")
        assert words in caught.value.message
        assert hint in caught.value.hint


def test_a_table_that_was_proved_excuses_no_values(tmp_path: Path) -> None:
    """Files of one layout are each looked at; a base of another shape is asked for anew."""
    tensors, metadata = making.adapter_parts()
    good = making.adapter(tmp_path / "a.safetensors", tensors, metadata).read_bytes()
    for bits in (b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff", b"\x01\x00\xc0\x7f"):
        adapter_file.prove(good, base_of())
        with pytest.raises(errors.BadArtifact, match="NaN or infinity in 'offset"):
            adapter_file.prove(good[:-4] + bits, base_of(), what="b")
    wide = families.shape(making.CONFIG | {"hidden_size": 16})
    with pytest.raises(errors.BadArtifact, match="must be"):
        adapter_file.prove(good, base_of(shape=wide))
    with pytest.raises(errors.BadArtifact, match="belongs to the base"):
        adapter_file.prove(good, base_of(digest="ee" * 32))
    with pytest.raises(errors.BadArtifact, match="is truncated"):
        adapter_file.prove(good[:-4], base_of())


def test_half_floats_are_proved_by_their_bits(tmp_path: Path) -> None:
    """The largest float16 is finite, the next pattern is infinity; BF16 is told from F16."""
    path = tmp_path / "x.safetensors"
    write(path, dtype="F16")
    good = path.read_bytes()
    adapter_file.prove(good[:-2] + b"\xff\x7b", base_of())
    for bits in (b"\x00\x7c", b"\x01\xfc"):
        with pytest.raises(errors.BadArtifact, match="NaN or infinity"):
            adapter_file.prove(good[:-2] + bits, base_of())
    brain = good.replace(b'"dtype":"F16"', b'"dtype":"BF16"')
    length = int.from_bytes(brain[:8], "little") + len(brain) - len(good)
    brain = length.to_bytes(8, "little") + brain[8:]
    adapter_file.prove(brain[:-2] + b"\x00\x7c", base_of())
    with pytest.raises(errors.BadArtifact, match="NaN or infinity"):
        adapter_file.prove(brain[:-2] + b"\x80\x7f", base_of())


def test_dtypes_may_differ_within_a_file(tmp_path: Path) -> None:
    """Tensors of two dtypes are proved one by one."""
    tensors, metadata = making.adapter_parts()
    mixed = {
        name: array.astype(np.float16) if name.startswith("head.") else array
        for name, array in tensors.items()
    }
    path = making.adapter(tmp_path / "x.safetensors", mixed, metadata)
    adapter_file.prove(path.read_bytes(), base_of())
    bad = {name: array.copy() for name, array in mixed.items()}
    bad["head.classifier.bias"][0] = np.inf
    path = making.adapter(tmp_path / "x.safetensors", bad, metadata)
    with pytest.raises(errors.BadArtifact, match=r"infinity in 'head\.classifier\.bias'"):
        adapter_file.prove(path.read_bytes(), base_of())


def test_a_header_says_everything_once(tmp_path: Path) -> None:
    """Metadata that comes first, last, twice or broken is read alike, or refused."""
    tensors, metadata = making.adapter_parts()
    data = making.adapter(tmp_path / "x.safetensors", tensors, metadata).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length].decode(), data[8 + length :]

    def again(text: str) -> bytes:
        return len(text.encode()).to_bytes(8, "little") + text.encode() + body

    parsed = json.loads(header)
    last = {key: parsed[key] for key in sorted(parsed, reverse=True)}
    info = adapter_file.prove(again(json.dumps(last)), base_of())
    assert info.label_names == adapter_file.prove(data, base_of()).label_names
    twice = header.rstrip()[:-1] + ',"__metadata__":{}}'
    for text, words in (
        (twice, "`__metadata__` twice|'__metadata__' twice"),
        (header.replace('},"', '},,"', 1), "not JSON"),
        (header.replace("}}", "},}"), "not JSON"),
        (header.rstrip()[:-1], "not JSON"),
        (header.rstrip() + "x", "not JSON"),
        (header.replace('"bertd.head"', '"bertd.format":"x","bertd.head"'), "twice"),
    ):
        with pytest.raises(errors.BadArtifact, match=words):
            adapter_file.prove(again(text), base_of())
