"""What the benchmark of adapters reports, on a tiny base, and what was recorded with it."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.adapters import engine, fleet, pool, report, timing
from bertd.engine import session
from tests import checkpoints

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDED = sorted(RESULTS.glob("adapters-*.json"))
FLEETS = sorted(RESULTS.glob("fleet-*.json"))


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> Path:
    """A tiny checkpoint."""
    checkpoints.write(tmp_path / "base")
    return tmp_path / "base"


def test_the_ratio_has_one_adapter_many_and_transformers(base: Path) -> None:
    """A batch of 32 is timed with one adapter, with 32 different ones, and plain (B11)."""
    opened = session.Session.open(str(base))
    slots, memory = pool.fill(opened, 40)
    records = engine.against_transformers(str(base), opened, slots, rounds=2)
    assert [record["contender"] for record in records] == [engine.ONE, engine.MANY, engine.PLAIN]
    assert all(record["p50_ms"] > 0 for record in records)
    assert records[-1]["time_against_transformers"]["median"] == 1
    assert memory.table_bytes == opened.base.runner.bank.table.slot_bytes


def test_the_curve_reaches_every_count(base: Path) -> None:
    """Each workload is measured against one adapter for every number of adapters."""
    opened = session.Session.open(str(base))
    slots, _ = pool.fill(opened, 40)
    curve = engine.curve(opened, slots, [1, 10, 40], rounds=2)
    assert [record["adapters"] for record in curve] == [1, 10, 40] * 2
    assert all(record["speed_against_one"]["median"] > 0 for record in curve)


def test_a_paired_ratio_sees_through_a_machine_that_slows_down() -> None:
    """Each round's ratio counts, so that a drift of the whole machine cancels."""
    drift = np.linspace(1, 5, 40)
    found = timing.ratio(drift * 1.02, drift)
    assert found.median == pytest.approx(1.02)
    assert found.low == pytest.approx(found.high)


def test_files_of_a_fleet_are_all_different(base: Path, tmp_path: Path) -> None:
    """No two tenants share content, or the daemon would hold them once."""
    folder = tmp_path / "tenants"
    folder.mkdir()
    spare = fleet.write(str(base), folder, 20, 5)
    contents = {path.read_bytes() for path in (*folder.iterdir(), *spare)}
    assert len(contents) == 25


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_results_name_their_machine(path: Path) -> None:
    """What was recorded says with which hardware, versions and date, and how to repeat it (B11)."""
    result = json.loads(path.read_text())
    assert {"cpu", "torch", "date", "threads", "command"} <= result.keys()
    assert [record["contender"] for record in result["ratio"]] == [
        engine.ONE, engine.MANY, engine.PLAIN,
    ]  # fmt: skip
    assert report.markdown(result) == path.with_suffix(".md").read_text()


@pytest.mark.parametrize("path", FLEETS, ids=lambda path: path.stem)
def test_recorded_fleets_name_their_machine(path: Path) -> None:
    """A daemon's numbers come with the machine that they were measured on."""
    result = json.loads(path.read_text())
    assert {"cpu", "torch", "date", "lanes", "adapters"} <= result.keys()
    assert fleet.markdown(result) == path.with_suffix(".md").read_text()


def test_there_are_recorded_results() -> None:
    """Both parts of the benchmark were run on BERT-base's shape."""
    assert {path.stem.rpartition("-")[0] for path in (*RECORDED, *FLEETS)} >= {
        "adapters-bert-base-fp32", "fleet-bert-base-10000",
    }  # fmt: skip


def test_a_fleet_needs_no_options() -> None:
    """The defaults measure ten thousand adapters on BERT-base."""
    parsed: argparse.Namespace = fleet.parser().parse_args([])
    assert (parsed.base, parsed.adapters) == ("bert-base", 10_000)
