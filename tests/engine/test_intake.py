"""Adapters come into slots by the dozen; one that is bad fails alone."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertd.adapters import bank as banks
from bertd.engine import intake, loading
from tests import checkpoints


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    checkpoints.write(folder)
    return folder


def load_base(folder: Path, **options: Any) -> loading.LoadedBase:
    """The base in memory."""
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return loading.load_base(files, **options)


def wanted(path: Path, slot: int, **options: Any) -> intake.Wanted:
    """A request for a file as it is now."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return intake.Wanted(**{"slot": slot, "digest": digest, "path": path} | options)


def weights(base: loading.LoadedBase, slot: int) -> np.ndarray:
    """What a slot holds: its row, its tail and the first weights of its head."""
    table, head = base.runner.bank.table, base.runner.bank[slot].head
    assert head is not None
    row = torch.cat((table.rows_SLW[slot].flatten(), table.tail_SD[slot])).float().numpy()
    return np.concatenate((row, head.out.weight.ravel()))


def test_a_bad_adapter_fails_alone(folder: Path, tmp_path: Path) -> None:
    """Of a message with every kind of fault, the good ones load and each bad one says why."""
    described = checkpoints.describe(folder)
    other = tmp_path / "other"
    checkpoints.write(other, seed=9)
    good = [checkpoints.adapter(tmp_path / f"{n}", described, seed=n, labels=n) for n in (2, 5)]
    foreign = checkpoints.adapter(tmp_path / "foreign", checkpoints.describe(other))
    torn = tmp_path / "torn"
    torn.write_bytes(good[0].read_bytes()[:-1])
    pickled = tmp_path / "pickled"
    pickled.write_bytes(b"PK\x03\x04" + bytes(100))
    base = load_base(folder)
    outcome = intake.Intake(base, None).load(
        [
            wanted(good[0], 3),
            wanted(foreign, 4),
            wanted(torn, 5),
            wanted(good[0], 6, digest="0" * 64),
            intake.Wanted(slot=7, digest="0" * 64, path=tmp_path / "absent"),
            wanted(pickled, 8),
            wanted(good[1], 9),
            wanted(good[1], base.runner.bank.table.slots),
        ]
    )
    hidden = described.shape.hidden
    assert outcome.head_bytes == {3: 4 * (3 * hidden + 2), 9: 4 * (6 * hidden + 5)}
    assert {slot: getattr(error, "reason", "") for slot, error in outcome.failed.items()} == {
        4: "WrongBase",
        5: "BadSafetensors",
        6: "BlobCorrupt",
        7: "SourceNotFound",
        8: "PickleRefused",
        base.runner.bank.table.slots: "AdapterTableFull",
    }
    assert base.runner.bank[9].head is not None


def test_a_swapped_file_is_named_with_both_digests(folder: Path, tmp_path: Path) -> None:
    """A file that is valid, but not the declared one, is refused as corrupt (checklist 88)."""
    described = checkpoints.describe(folder)
    path = checkpoints.adapter(tmp_path / "a", described, seed=1)
    asked = wanted(path, 1)
    checkpoints.adapter(path, described, seed=2)
    outcome = intake.Intake(load_base(folder), tmp_path / "folded").load([asked])
    assert asked.digest in str(outcome.failed[1])
    assert not (tmp_path / "folded").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_folded_adapter_needs_its_file_no_more(
    folder: Path, tmp_path: Path, precision: str
) -> None:
    """A second worker takes rows and heads from disk, bit for bit, without reading the adapter."""
    described = checkpoints.describe(folder)
    paths = [checkpoints.adapter(tmp_path / f"{n}", described, seed=n, labels=n) for n in (2, 3)]
    asked = [wanted(path, slot) for slot, path in enumerate(paths, start=1)]
    first, second = (load_base(folder, precision=precision) for _ in range(2))
    assert not intake.Intake(first, tmp_path / "folded").load(asked).failed
    for path in paths:
        path.unlink()
    outcome = intake.Intake(second, tmp_path / "folded").load(asked)
    assert not outcome.failed
    assert set(outcome.head_bytes) == {1, 2}
    for slot in (1, 2):
        assert np.array_equal(weights(first, slot), weights(second, slot))
        pooler = second.runner.bank[slot].pooler
        assert pooler is not None
        assert np.array_equal(pooler.bias, first.runner.bank[slot].pooler.bias)  # type: ignore[union-attr]


def test_what_is_not_to_be_cached_is_not(folder: Path, tmp_path: Path) -> None:
    """An adapter that a caller brought along is neither written to disk nor looked up there."""
    described = checkpoints.describe(folder)
    path = checkpoints.adapter(tmp_path / "a", described)
    asked = wanted(path, 1, cache=False)
    base = load_base(folder)
    assert not intake.Intake(base, tmp_path / "folded").load([asked]).failed
    assert not (tmp_path / "folded").exists()
    intake.Intake(base, tmp_path / "folded").load([wanted(path, 2)])
    path.unlink()
    assert intake.Intake(base, tmp_path / "folded").load([asked]).failed


def test_a_broken_folded_file_is_folded_again(folder: Path, tmp_path: Path) -> None:
    """A bit flip in the cache costs one folding and heals the file; the answer is the same."""
    path = checkpoints.adapter(tmp_path / "a", checkpoints.describe(folder))
    base, directory = load_base(folder), tmp_path / "folded"
    intake.Intake(base, directory).load([wanted(path, 1)])
    (file,) = (p for p in directory.rglob("*") if p.is_file())
    before = file.read_bytes()
    file.write_bytes(before[:200] + bytes([before[200] ^ 4]) + before[201:])
    assert not intake.Intake(base, directory).load([wanted(path, 2)]).failed
    assert file.read_bytes() == before
    assert np.array_equal(weights(base, 1), weights(base, 2))


def test_an_adapter_for_another_tokenizer_is_not_found_folded(folder: Path, tmp_path: Path) -> None:
    """The same base with another tokenizer refuses what the first one folded (WrongTokenizer)."""
    path = checkpoints.adapter(tmp_path / "a", checkpoints.describe(folder))
    assert not intake.Intake(load_base(folder), tmp_path / "f").load([wanted(path, 1)]).failed
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    files["tokenizer.json"] = tmp_path / "tokenizer.json"
    files["tokenizer.json"].write_text((folder / "tokenizer.json").read_text() + " ")
    outcome = intake.Intake(loading.load_base(files), tmp_path / "f").load([wanted(path, 1)])
    assert getattr(outcome.failed[1], "reason", "") == "WrongTokenizer"


def test_slot_zero_stays_the_bases(folder: Path, tmp_path: Path) -> None:
    """A message that names slot 0 is a bug of the front and changes nothing."""
    path = checkpoints.adapter(tmp_path / "a", checkpoints.describe(folder))
    base = load_base(folder)
    before = weights(base, banks.BASE_SLOT)
    with pytest.raises(Exception, match="slot 0"):
        intake.Intake(base, None).load([wanted(path, 0)])
    assert np.array_equal(weights(base, banks.BASE_SLOT), before)
