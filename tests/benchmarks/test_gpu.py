"""The GPU benchmark's own arithmetic and its table; what it measures needs a GPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import report, timing
from bertd import frames

FACTS = {
    "date": "2026-11-20",
    "machine": {"gpu": "a GPU"},
    "versions": {"torch": "2.13"},
    "peak": {"bf16": 5e14},
}


def test_batches_hold_as_many_tokens_whatever_their_rows() -> None:
    """A lone row, and rows of 32, 128 and 512 tokens in batches of equal size."""
    lone, *uniform = program.workloads(16_384)
    assert (lone.name, lone.tokens) == ("single16", 16)
    assert [each.name for each in uniform] == ["uniform512x32", "uniform128x128", "uniform32x512"]
    assert {each.tokens for each in uniform} == {16_384}


def test_batches_are_fresh_and_rows_draw_from_all_adapters() -> None:
    """No two batches are equal, and the base's own slot is never used."""
    workload, rng = timing.Workload(length=8, rows=500), np.random.default_rng(0)
    first, second = workload.draw(rng, 64), workload.draw(rng, 64)
    assert not np.array_equal(first.ids_T, second.ids_T)
    assert set(first.slots_B.tolist()) == set(range(1, 65))


def test_every_contender_takes_its_turns() -> None:
    """Turns alternate, the first is not counted, and a lone row is timed by itself."""
    ran: list[str] = []

    def runs(name: str) -> timing.RunOne:
        return lambda batch: ran.append(name) if isinstance(batch, frames.Batch) else None

    contenders = {name: timing.Contender(run=runs(name)) for name in ("a", "b")}
    times = timing.take_turns(contenders, timing.Workload(length=4, rows=2), rounds=3)
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}
    assert ran == (["a"] * timing.BATCHES + ["b"] * timing.BATCHES) * 4
    times = timing.take_turns(contenders, timing.Workload(length=16, rows=1), rounds=2)
    assert len(times["a"]) == 2 * timing.LONE_RUNS


def test_the_table_and_the_json_say_the_same(tmp_path: Path) -> None:
    """Medians, sequences a second and the share of the peak, for people and for scripts."""
    workload = timing.Workload(length=128, rows=100)
    times = [0.004, 0.002, 0.003]
    row = report.row("bertd-bf16-1-adapters", workload, times, operations=3e11, peak=5e14)
    report.write(tmp_path / "gpu-2026-11-20", FACTS, [row])
    found = json.loads((tmp_path / "gpu-2026-11-20.json").read_text())
    assert found["rows"][0]["median_seconds"] == 0.003
    assert found["rows"][0]["share_of_peak"] == pytest.approx(0.2)
    table = (tmp_path / "gpu-2026-11-20.md").read_text()
    assert "| uniform100x128 | bertd-bf16-1-adapters | 3.000 | 3.000 | 33,333 |" in table
    assert "| 20% |" in table


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing is measured and nothing written, and nobody has to guess why."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    program.main()
    assert capsys.readouterr().out == "There is no GPU here: nothing was measured.\n"
    assert not list(tmp_path.iterdir())
