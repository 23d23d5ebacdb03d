"""Whatever bytes a file has, reading it ends in success or BadArtifact (checklist 86)."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bertd import errors
from bertd.checkpoint import adapter_file, files, json_text, safetensors, sources
from tests.checkpoint import making

CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
hostile = settings(deadline=None, max_examples=60, suppress_health_check=CHECKS)

JSON = st.recursive(
    st.sampled_from([None, True, 0, -1, 4, 1.5, 2**70, "", "F32", "x", "a\n", "\ud800", "LABEL_0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["dtype", "shape", "data_offsets", "__metadata__", "type", "path", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TENSORS = st.dictionaries(
    st.sampled_from(["x", "y", "__metadata__", "offset.pooler.dense.bias"]),
    st.builds(
        lambda dtype, shape, start, length: making.entry(dtype, shape, start, start + length),
        st.sampled_from(["F32", "F16", "I8", "Q4"]),
        st.lists(st.integers(-1, 4), max_size=3),
        st.integers(-1, 40),
        st.integers(-1, 40),
    )
    | JSON,
    max_size=3,
)


@st.composite
def almost_files(draw: st.DrawFn) -> bytes:
    """Bytes that are a safetensors file, or nearly one, or nothing of the kind."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    return making.raw(draw(TENSORS), draw(st.binary(max_size=48)))


@st.composite
def edited(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid file with a few bytes changed, cut or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


def valid_adapter() -> bytes:
    """The bytes of a valid adapter."""
    return safetensors.encode(*making.adapter_parts())


@hostile
@given(content=almost_files())
@example(content=b"")
def test_headers(tmp_path: Path, content: bytes) -> None:
    """Arbitrary bytes as a weight file raise BadArtifact alone, with a printable message."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        located = safetensors.locate({"x.safetensors": path})
    except errors.BadArtifact as error:
        message = str(error)
    else:
        message = "".join(located)
    assert message.isprintable()


@hostile
@given(content=almost_files() | edited(valid_adapter()))
def test_adapters(tmp_path: Path, content: bytes) -> None:
    """Arbitrary bytes, and valid adapters with a few bytes changed, raise BadArtifact alone."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with suppress(errors.BadArtifact):
        adapter_file.read_info(path)
    with suppress(errors.BadArtifact):
        adapter_file.read(path, making.SHAPE, True)


METADATA = st.dictionaries(
    st.sampled_from(
        ["bertd.head", "bertd.labelNames", "bertd.temperature", "bertd.thresholds",
         "bertd.training", "bertd.format", "bertd.x"]
    ),
    JSON.map(json.dumps) | st.sampled_from(["", "NaN", "[" * 3_000, "9" * 5_000, "-0", "1e400"]),
)  # fmt: skip


@hostile
@given(change=METADATA)
def test_adapter_records(tmp_path: Path, change: dict[str, str]) -> None:
    """Arbitrary JSON in any key of the record raises BadArtifact alone."""
    tensors, metadata = making.adapter_parts()
    path = making.adapter(tmp_path / "x.safetensors", tensors, metadata | change)
    with suppress(errors.BadArtifact):
        adapter_file.read(path, making.SHAPE, True)


NAMES = (
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
    "model.safetensors.index.json",
)


@hostile
@given(
    name=st.sampled_from(NAMES),
    content=almost_files() | JSON.map(lambda value: json.dumps(value).encode()),
)
def test_bases(tmp_path: Path, name: str, content: bytes) -> None:
    """Arbitrary bytes in any one file of a valid checkpoint raise BadArtifact alone."""
    path = making.directory(tmp_path)
    extra = path / name
    extra.parent.mkdir(exist_ok=True)
    extra.write_bytes(content)
    with suppress(errors.BadArtifact):
        files.describe(making.files_of(path))
    extra.unlink()


@hostile
@given(change=st.dictionaries(
    st.sampled_from(["id2label", "architectures", "problem_type", "num_labels", *making.CONFIG]),
    JSON,
))  # fmt: skip
def test_configs(tmp_path: Path, change: dict[str, Any]) -> None:
    """Arbitrary values under a config's keys raise BadArtifact alone."""
    config = making.CONFIG | change
    path = making.directory(tmp_path, config=config)
    with suppress(errors.BadArtifact):
        files.describe(making.files_of(path))


@hostile
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@example(content=b'"\\ud800"')
@example(content=b"[" * 100_000)
@example(content=b'{"a":1,"a":2}')
def test_json(content: bytes) -> None:
    """Arbitrary bytes parse to something that can be printed, or raise BadArtifact."""
    with suppress(errors.BadArtifact):
        json.dumps(json_text.parse(content, "it"), ensure_ascii=False).encode("utf-8")


@hostile
@given(content=st.binary(max_size=60) | JSON.map(
    lambda value: json.dumps({"weight_map": value}).encode()
))  # fmt: skip
def test_indexes(content: bytes) -> None:
    """An index leads to plain file names or raises BadArtifact (checklist 87)."""
    with suppress(errors.BadArtifact):
        for shard in sources.shard_map(content).values():
            assert "/" not in shard


@pytest.mark.parametrize("name", NAMES)
def test_zeros(tmp_path: Path, name: str) -> None:
    """A file of zeros, as a crash leaves it, is refused whichever file it is."""
    path = making.directory(tmp_path)
    extra = path / name
    extra.parent.mkdir(exist_ok=True)
    extra.write_bytes(b"\0" * 4_096)
    if name == "tokenizer.json":
        assert files.describe(making.files_of(path)).tokenizer_digest  # its parser is elsewhere
        return
    with pytest.raises(errors.BadArtifact):
        files.describe(making.files_of(path))
