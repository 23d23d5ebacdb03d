"""`precision: auto` is measured once for each machine and model, and remembered."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import pytest

from bertd.checkpoint import files as checkpoint_files
from bertd.engine import choosing
from bertd.kernels import native
from tests import checkpoints


def seconds(small: float, large: float) -> dict[str, dict[int, float]]:
    """Measurements in which bf16 is so many times as fast as fp32."""
    first, second = choosing.SIZES_TOKENS
    return {
        "fp32": {first: small, second: large},
        "bf16": {first: 1.0, second: 1.0},
    }


class Measuring:
    """Counts how often it is measured."""

    def __init__(self, gain: float = 2.0) -> None:
        self.times = 0
        self._gain = gain

    def __call__(self) -> choosing.Seconds:
        self.times += 1
        return seconds(self._gain, self._gain)


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> checkpoint_files.Base:
    checkpoints.write(tmp_path / "base")
    return checkpoints.describe(tmp_path / "base")


@pytest.mark.parametrize(
    ("small", "large", "wanted"),
    [
        (2.0, 2.0, "bf16"),
        (1.11, 1.2, "bf16"),
        (1.1, 2.0, "fp32"),
        (2.0, 1.05, "fp32"),
        (0.5, 3.0, "fp32"),
        (0.4, 0.4, "fp32"),
    ],
)
def test_only_what_is_faster_at_both_sizes_is_chosen(
    small: float, large: float, wanted: str
) -> None:
    """bf16 must be faster by more than a tenth for short and for long batches; else fp32."""
    chosen = choosing.decide(seconds(small, large))
    assert chosen.precision == wanted
    assert f"{small:.2f}x" in chosen.reason


@pytest.mark.parametrize("declared", ["fp32", "bf16", "int8"])
def test_what_is_declared_stands(
    base: checkpoint_files.Base, tmp_path: Path, declared: str
) -> None:
    """Nothing is measured or written where the declaration says a precision."""
    measuring = Measuring()
    chosen = choosing.resolve(declared, base, tmp_path / "choices", measure=measuring)
    assert chosen == choosing.Chosen(precision=declared)
    assert measuring.times == 0
    assert not (tmp_path / "choices").exists()


def test_it_is_measured_once(base: checkpoint_files.Base, tmp_path: Path) -> None:
    """The second start reads what the first one measured, also in another process."""
    measuring = Measuring()
    for _ in range(3):
        chosen = choosing.resolve("auto", base, tmp_path / "choices", measure=measuring)
        assert chosen.precision == "bf16"
    assert measuring.times == 1
    assert len(list((tmp_path / "choices").iterdir())) == 1


def test_another_base_or_machine_is_measured_again(
    base: checkpoint_files.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is of this base, this processor and these kernels."""
    measuring = Measuring()

    def resolve(which: checkpoint_files.Base) -> None:
        choosing.resolve("auto", which, tmp_path, measure=measuring)

    monkeypatch.setenv("BERTD_KERNELS", "eager")

    resolve(base)
    resolve(dataclasses.replace(base, digest="f" * 64))
    assert measuring.times == 2
    monkeypatch.setattr(choosing.peak, "processor", lambda: "another")
    resolve(base)
    assert measuring.times == 3
    if native.open_library("portable"):
        monkeypatch.setenv("BERTD_KERNELS", "portable")
        resolve(base)
        assert measuring.times == 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"seconds": {}}',
        b'{"seconds": {"fp32": {"64": "x", "512": 1}, "bf16": {"64": 1, "512": 1}}}',
        b'{"seconds": {"fp32": {"64": 0, "512": 1}, "bf16": {"64": 1, "512": 1}}}',
        b'{"seconds": {"fp32": {"64": NaN, "512": 1}, "bf16": {"64": 1, "512": 1}}}',
        b'{"seconds": {"fp32": {"64": 9, "512": 9}, "bf16": {"64": 1, "512": 1}}, "key": {}}',
        b"[" * 60_000,
    ],
)
def test_a_broken_memory_is_measured_again(
    base: checkpoint_files.Base, tmp_path: Path, content: bytes
) -> None:
    """Whatever lies in the file, it is measured anew and written whole."""
    measuring = Measuring(gain=1.0)
    choosing.resolve("auto", base, tmp_path / "c", measure=measuring)
    (path,) = (tmp_path / "c").iterdir()
    path.write_bytes(content)
    for _ in range(2):
        chosen = choosing.resolve("auto", base, tmp_path / "c", measure=measuring)
        assert chosen.precision == "fp32"
    assert measuring.times == 2
    assert json.loads(path.read_bytes())["key"]["base"] == base.digest


def test_nowhere_to_remember(
    base: checkpoint_files.Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory that cannot be made or written costs measuring again, and the log says so."""
    (tmp_path / "file").write_text("")
    measuring = Measuring()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            chosen = choosing.resolve("auto", base, tmp_path / "file" / "c", measure=measuring)
            assert chosen.precision == "bf16"
    assert measuring.times == 2
    assert "every start measures" in caplog.text
    assert choosing.resolve("auto", base, None, measure=measuring).precision == "bf16"


def test_the_memory_stays_small(
    base: checkpoint_files.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest records go, and the youngest one stays."""
    monkeypatch.setattr(choosing, "RECORDS_MAX", 3)
    for number in range(5):
        (tmp_path / f"{number}").write_text("")
        os.utime(tmp_path / f"{number}", (number, number))
    measuring = Measuring()
    for _ in range(2):
        choosing.resolve("auto", base, tmp_path, measure=measuring)
    assert measuring.times == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_workers_that_start_together_measure_and_remember(
    base: checkpoint_files.Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record that another worker forgets meanwhile is no news, and leaves a whole record."""
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: [*listed(path), path / "gone"])
    with caplog.at_level(logging.WARNING):
        choosing.resolve("auto", base, tmp_path / "c", measure=Measuring())
    monkeypatch.undo()
    assert not caplog.records
    measuring = Measuring()
    choosing.resolve("auto", base, tmp_path / "c", measure=measuring)
    assert measuring.times == 0


def test_a_tiny_model_is_measured(base: checkpoint_files.Base) -> None:
    """Both candidates run both sizes in the model's own shape, without its weights."""
    found = choosing.measured(base.shape)
    assert set(found) == {"fp32", "bf16"}
    for sizes in found.values():
        assert set(sizes) == set(choosing.SIZES_TOKENS)
        assert all(value > 0 for value in sizes.values())
