"""The reading process answers with tensors, or the file is refused; nothing hangs or leaks."""

import io
import json
import os
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertd import errors
from bertd.checkpoint import safetensors
from bertd.interchange import tensors, unpickle
from tests.interchange import making


def read(data: bytes, **options: Any) -> tensors.Found:
    """What the process finds in these bytes."""
    with tensors.held(data) as fd:
        return tensors.unpickled(fd, "x.pt", **options)


def refusal(value: object) -> unpickle.Refused:
    """How the process would refuse a file that holds this value."""
    with pytest.raises(unpickle.Refused) as caught:
        unpickle.convert(torch, safetensors, value, unpickle.RESULT_BYTES)
    return caught.value


def bomb(size: int) -> bytes:
    """An archive whose only storage unpacks to this size."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(making.saved({"a": torch.zeros(16)}))) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
    ):
        for info in source.infolist():
            data = bytes(size) if info.filename.endswith("data/0") else source.read(info)
            out.writestr(info.filename, data)
    return made.getvalue()


def test_tensors_of_every_kind_come_out_as_float32() -> None:
    """Half, double and whole numbers are converted, and whole ones told; layouts are made plain."""
    found = read(
        making.saved(
            {
                "half": torch.tensor([0.5], dtype=torch.bfloat16),
                "double": torch.tensor([0.25], dtype=torch.float64),
                "whole": torch.arange(3),
                "turned": torch.arange(6.0).reshape(2, 3).T,
                "in": {"side": torch.nn.Parameter(torch.ones(2))},
            }
        )
    )
    assert found.dtypes == {"whole": "int64"}
    assert set(found.arrays) == {"half", "double", "whole", "turned", "in/side"}
    assert {array.dtype for array in found.arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found.arrays["turned"], [[0, 3], [1, 4], [2, 5]])


ONE = torch.ones(1)
REFUSED: list[tuple[str, object, str, str]] = [
    ("a list", [ONE], "NotTensors", "must hold a mapping, not list"),
    ("a string", {"a": "x"}, "NotTensors", "'a', which is no tensor: str"),
    ("a huge view", {"a": torch.zeros(1).expand(10**12)}, "TooLarge", "at 'a'"),
    ("sparse", {"a": torch.eye(3).to_sparse()}, "NotTensors", "no plain tensor"),
    ("nowhere", {"a": torch.ones(1, device="meta")}, "NotTensors", "no plain tensor"),
    ("too deep", {"a": {"c": {"d": ONE}}}, "NotTensors", "'a/c'"),
    ("a number", {7: ONE}, "NotTensors", "no printable text"),
    ("two in one", {"a/b": ONE, "a": {"b": ONE}}, "NotTensors", "a key with a '/': 'a/b'"),
    ("two in one below", {"a": {"b/c": ONE}}, "NotTensors", "a key with a '/': 'a/b/c'"),
    ("too many", {str(at): ONE for at in range(4097)}, "TooLarge", "at '4096'"),
]


@pytest.mark.parametrize(
    ("value", "reason", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_not_plain_tensors_is_refused(value: object, reason: str, words: str) -> None:
    """Other objects, huge tensors and names for two are refused by name."""
    found = refusal(value)
    assert found.reason == reason
    assert words in str(found)


def test_a_zip_bomb_costs_one_process() -> None:
    """What unpacks to more than a file of its size may is refused; only its reader is short."""
    with pytest.raises(errors.BadArtifact, match=r"x\.pt needs more memory") as caught:
        read(bomb(unpickle.MEMORY_BYTES + (128 << 20)))
    assert caught.value.reason == "TooLarge"


def test_a_refusal_of_the_process_names_the_file() -> None:
    """The reason comes through the pipe, in the words of the process."""
    told = json.dumps({"reason": "NotTensors", "message": "holds 'a', which is no tensor"})
    found = tensors.refusal(told.encode(), "x.pt")
    assert isinstance(found, errors.BadArtifact)
    assert (found.reason, found.message) == ("NotTensors", "x.pt holds 'a', which is no tensor")


def test_a_caller_with_many_files_open_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that converts for its callers has more descriptors than select(2) can name."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most[1], most[1]))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1024)]
    monkeypatch.setattr(tensors, "MODULE", "this")
    try:
        with pytest.raises(errors.BadArtifact, match="header"):
            read(b"x")
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_a_reader_that_takes_too_long_is_killed() -> None:
    """The wall clock bounds the process whatever it does."""
    with pytest.raises(errors.BadArtifact, match=r"x\.pt took too long to read"):
        read(making.saved({"a": torch.ones(1)}), timeout_s=0.0)


def test_a_reader_that_stays_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has closed its output, but never ends, holds nobody up."""
    (tmp_path / "stays.py").write_text("import os, time\nos.close(1)\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tensors, "MODULE", "stays")
    with pytest.raises(errors.BadArtifact, match="took too long"):
        read(b"x", timeout_s=0.5)


def test_a_reader_that_dies_or_lies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer of the process is trusted no more than the file."""
    for module, words in (
        ("bertd.no_such_module", "killed the process"),
        ("this", "header"),  # prints a poem
    ):
        monkeypatch.setattr(tensors, "MODULE", module)
        with pytest.raises(errors.BadArtifact, match=words):
            read(b"x")
    assert "killed" in str(tensors.refusal(b"[" * 50_000, "x.pt"))
    told = tensors.refusal(b'{"reason": "Evil", "message": "\\u001b[31m"}', "x.pt")
    assert isinstance(told, errors.BadArtifact)
    assert told.reason == "BadPickle"
    assert "\x1b" not in told.message


def test_missing_torch_and_missing_sandbox_say_what_to_do() -> None:
    """Both are the system's fault, and named with a way out."""
    no_torch = tensors.refusal(b'{"reason": "NoTorch", "message": "torch"}', "x.pt")
    assert no_torch.hint == "pip install 'bertd[engine]'"
    locked = tensors.refusal(b'{"reason": "NoSandbox", "message": "no filter"}', "x.pt")
    assert isinstance(locked, errors.InvalidRequest)
    assert "seccomp" in locked.hint
