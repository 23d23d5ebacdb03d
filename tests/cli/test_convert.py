"""`bertd convert` as a person at a terminal uses it."""

import json
from pathlib import Path

import pytest
import torch

from bertd.cli import exits, main
from tests import checkpoints


@pytest.fixture(name="pickled")
def _pickled(tmp_path: Path) -> Path:
    """A directory with a pickle, as older versions of transformers saved it."""
    made = checkpoints.write(tmp_path / "pickled", labels=2)
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(made.model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    return tmp_path / "pickled"


def test_it_prints_what_it_wrote(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both forms name architecture, digest and labels of what is now a base (F1)."""
    assert main.execute(["convert", str(pickled), "--out", str(tmp_path / "a")]) == exits.OK
    table = capsys.readouterr().out
    digest = checkpoints.describe(tmp_path / "a").digest
    for word in ("BertForSequenceClassification", digest, "LABEL_0, LABEL_1"):
        assert word in table
    options = ["--out", str(tmp_path / "b"), "-o", "json"]
    assert main.execute(["convert", str(pickled), *options]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["digest"] == digest
    assert facts["labelNames"] == ["LABEL_0", "LABEL_1"]
    assert facts["bytes"] > 0


def test_refusals_leave_with_their_code(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pickle with code is refused in one sentence, and nothing is written."""
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\n.")
    assert main.execute(["convert", str(pickled), "--out", str(tmp_path / "a")]) != exits.OK
    assert "posix" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
