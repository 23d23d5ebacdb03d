"""A checkpoint with pickled weights becomes a directory that bertd serves, or nothing at all."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertd import errors
from bertd.engine import session
from bertd.interchange import converting
from tests.interchange import making

LABELS = {0: "no", 1: "maybe", 2: "yes"}


@pytest.fixture
def pickled(tuned: Any, tmp_path: Path) -> Path:
    """A fine-tuned model as older versions of transformers saved it."""
    folder = making.save(tmp_path / "pickled", tuned)
    (folder / "model.safetensors").unlink()
    torch.save(tuned.state_dict(), folder / converting.PICKLED)
    return folder


def refusal(folder: Path, out: Path, **options: Any) -> errors.BadArtifact:
    """The refusal of a directory; nothing may be left of it."""
    with pytest.raises(errors.BadArtifact) as caught:
        converting.convert(folder, out, **options)
    assert not list(out.parent.glob(f"*{out.name}*"))
    return caught.value


def test_what_was_pickled_answers_as_before(tuned: Any, pickled: Path, tmp_path: Path) -> None:
    """The converted directory has the model's own logits, and its digest (F1)."""
    made = converting.convert(pickled, tmp_path / "made")
    opened = session.Session.open(str(tmp_path / "made"))
    logits = opened.classify(making.TEXTS)
    np.testing.assert_allclose(logits, making.logits(tuned, pickled), atol=1e-5, rtol=0)
    saved = making.save(tmp_path / "saved", tuned)
    assert made.digest == session.Session.open(str(saved)).base.description.digest
    assert not (tmp_path / "made" / converting.PICKLED).exists()


def test_everything_that_a_base_may_have_comes_along(pickled: Path, tmp_path: Path) -> None:
    """Pooling, lengths and labels are read from the same files as before; other files stay."""
    (pickled / "1_Pooling").mkdir()
    (pickled / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (pickled / "modules.json").write_text(
        json.dumps(
            [
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
            ]
        )
    )
    (pickled / "README.md").write_text("what we did")
    config = json.loads((pickled / "config.json").read_text()) | {"id2label": LABELS}
    (pickled / "config.json").write_text(json.dumps(config))
    made = converting.convert(pickled, tmp_path / "made")
    assert made.label_names == ("no", "maybe", "yes")
    assert made.pooling.mode == "cls"
    assert not (tmp_path / "made" / "README.md").exists()


def test_a_tokenizer_from_elsewhere(pickled: Path, tmp_path: Path) -> None:
    """Many fine-tunes were saved without their tokenizer: it may be named, file or directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(pickled / "tokenizer.json", elsewhere / "tokenizer.json")
    error = refusal(pickled, tmp_path / "made")
    assert error.reason == "MissingFile"
    assert "--tokenizer" in error.hint
    empty = refusal(pickled, tmp_path / "made", tokenizer=tmp_path / "absent")
    assert f"{tmp_path}/absent' has no 'tokenizer.json'" in empty.message
    by_folder = converting.convert(pickled, tmp_path / "a", tokenizer=elsewhere)
    by_file = converting.convert(pickled, tmp_path / "b", tokenizer=elsewhere / "tokenizer.json")
    assert by_folder.tokenizer_digest == by_file.tokenizer_digest


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"\x80\x02cposix\nsystem\n.", "UnsafePickle"),
        (b"not a pickle", "BadPickle"),
        (b"", "BadPickle"),
        (making.saved({"bert.embeddings.word_embeddings.weight": "text"}), "NotTensors"),
        (making.saved({"bert.embeddings.word_embeddings.weight": torch.ones(2)}), "MissingTensor"),
    ],
)
def test_hostile_pickles_leave_nothing(
    pickled: Path, tmp_path: Path, contents: bytes, reason: str
) -> None:
    """A pickle with code, rubbish or too little is refused by reason, without a directory."""
    (pickled / converting.PICKLED).write_bytes(contents)
    assert refusal(pickled, tmp_path / "made").reason == reason


def test_a_model_that_bertd_does_not_serve_leaves_nothing(pickled: Path, tmp_path: Path) -> None:
    """What comes out is proved before it gets its name."""
    config = json.loads((pickled / "config.json").read_text())
    (pickled / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    assert refusal(pickled, tmp_path / "made").reason == "UnsupportedArchitecture"


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "model.safetensors"])
def test_links_to_nothing_are_no_missing_files(pickled: Path, tmp_path: Path, name: str) -> None:
    """Half of a download is refused by name, and not converted without what it lacks."""
    (pickled / name).unlink(missing_ok=True)
    (pickled / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises((errors.BadArtifact, errors.InvalidRequest), match=name):
        converting.convert(pickled, tmp_path / "made")
    assert not list(tmp_path.glob("*made*"))


@pytest.mark.parametrize("contents", [b"", b"{}", b"not a tokenizer"])
def test_a_tokenizer_that_opens_nowhere_leaves_nothing(
    pickled: Path, tmp_path: Path, contents: bytes
) -> None:
    """The tokenizer is proved with the weights: no worker would open it."""
    (pickled / "tokenizer.json").write_bytes(contents)
    refusal(pickled, tmp_path / "made")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_pipe_is_no_empty_file(pickled: Path, tmp_path: Path, name: str) -> None:
    """It is refused as what it is, at once, and not read as if nothing were in it."""
    (pickled / name).unlink()
    os.mkfifo(pickled / name)
    assert refusal(pickled, tmp_path / "made").reason == "NotAFile"


def test_weights_in_several_pickles_are_told_what_to_do(pickled: Path, tmp_path: Path) -> None:
    """Shards are not taken for whole weights."""
    shard = pickled / "pytorch_model-00001-of-00002.bin"
    (pickled / converting.PICKLED).rename(shard)
    (pickled / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')
    error = refusal(pickled, tmp_path / "made")
    assert error.reason == "MissingFile"
    assert "save_pretrained" in error.hint


def test_the_place_to_write_to_must_be_free(pickled: Path, tmp_path: Path) -> None:
    """A broken link, a file and an empty directory stay; a parent that is not there is told."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for taken in ("link", "file", "empty"):
        with pytest.raises(errors.InvalidRequest, match="exists already"):
            converting.convert(pickled, tmp_path / taken)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(errors.InvalidRequest, match=r"'.*absent' is not a directory"):
        converting.convert(pickled, tmp_path / "absent" / "made")


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), errors.Temporary),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_full_disk_and_an_interruption_leave_nothing(
    pickled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    raised: type[BaseException],
) -> None:
    """Whatever was written by then is gone, and the directory never had its name."""

    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(raised):
        converting.convert(pickled, tmp_path / "made")
    assert not list(tmp_path.glob("*made*"))


def test_wrong_places_are_told(pickled: Path, base_folder: Path, tmp_path: Path) -> None:
    """Safetensors need no conversion, a directory is not overwritten, a file is no directory."""
    with pytest.raises(errors.InvalidRequest, match=r"holds 'model.safetensors' already"):
        converting.convert(base_folder, tmp_path / "made")
    with pytest.raises(errors.InvalidRequest, match="exists already"):
        converting.convert(pickled, tmp_path)
    assert refusal(pickled / "config.json", tmp_path / "made").reason == "SourceNotFound"
    (pickled / converting.PICKLED).unlink()
    assert refusal(pickled, tmp_path / "made").reason == "MissingFile"
    assert "save_pretrained" in refusal(pickled, tmp_path / "made").hint
