"""Answers of sessions to labelled text, alone and beside another precision."""

import itertools
import json
from pathlib import Path

import pytest

from bertd import errors
from bertd.bitfit import tables
from bertd.checkpoint import adapter_file
from bertd.engine import evaluation, session
from tests import checkpoints

ROWS = [("w1 w2", "label0"), ("w3", "label1"), ("w4 w5 w6 w7", "label2"), ("", "label0")] * 5


@pytest.fixture(name="base", scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with three labels of its own."""
    folder = tmp_path_factory.mktemp("base")
    checkpoints.write(folder)
    return folder


@pytest.fixture(name="table", scope="module")
def _table(tmp_path_factory: pytest.TempPathFactory) -> tables.Table:
    """Twenty labelled texts."""
    path = tmp_path_factory.mktemp("data") / "dev.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in ROWS))
    return tables.read(path, tables.Columns(text="text", label="label"))


def test_a_precision_beside_itself_costs_nothing(
    base: Path, table: tables.Table, tmp_path: Path
) -> None:
    """The same engine twice agrees everywhere, with the same metrics, bytes and no drift (F3)."""
    file = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(base))
    output = evaluation.of_adapter(adapter_file.read_info(file))
    opened = [session.Session.open(str(base)) for _ in range(2)]
    engines = [evaluation.Engine(one, one.load_adapter(file)) for one in opened]
    found = evaluation.compare(output, table, *engines)
    assert (found.rows, found.agreement.decisions, found.agreement.logits) == (20, 20, 60)
    assert (found.agreement.share, found.agreement.max_drift) == (1.0, 0.0)
    assert found.before.metrics == found.after.metrics
    assert found.before.weight_bytes == found.after.weight_bytes > 0
    alone = evaluation.measure(output, table, evaluation.answers(engines[0], table))
    assert alone == found.before.metrics


def test_seconds_are_those_of_the_clock(base: Path, table: tables.Table) -> None:
    """A clock that ticks once a look makes every lone row one second, and the table as much."""
    output = evaluation.of_base(checkpoints.describe(base))
    named = evaluation.Output(
        problem=output.problem, label_names=("label0", "label1", "label2"), rule=output.rule
    )
    engine = evaluation.Engine(session.Session.open(str(base)))
    ticks = itertools.count(0.0, 1.0)
    found = evaluation.compare(named, table, engine, engine, clock=lambda: next(ticks))
    assert (found.before.lone_row_s, found.after.lone_row_s) == (1.0, 1.0)
    assert (found.before.rows_per_s, found.after.rows_per_s) == (20.0, 20.0)


def test_labels_are_checked_before_anything_runs(base: Path, table: tables.Table) -> None:
    """The base's own labels are LABEL_0 and so on: other words are an error, told with the line."""
    engine = evaluation.Engine(session.Session.open(str(base)))
    output = evaluation.of_base(checkpoints.describe(base))
    ticks = itertools.count()
    with pytest.raises(errors.InvalidRequest, match=r"1: unknown label 'label0'; known: 'LABEL_0'"):
        evaluation.compare(output, table, engine, engine, clock=lambda: float(next(ticks)))
    assert next(ticks) == 0


def test_a_base_without_a_head_answers_nothing(tmp_path: Path) -> None:
    """A bare encoder has no classes; the way out is an adapter."""
    checkpoints.write(tmp_path / "bare", task="TokenClassification")
    described = checkpoints.describe(tmp_path / "bare")
    assert evaluation.of_base(described).problem.name == "token"
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    config["architectures"] = ["BertModel"]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    with pytest.raises(errors.InvalidRequest, match="no head of its own"):
        evaluation.of_base(checkpoints.describe(tmp_path / "bare"))
