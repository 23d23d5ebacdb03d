"""`bertd adapter train | inspect | evaluate` as a person at a terminal uses them."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bertd import errors
from bertd.cli import adapter, adapter_printing
from tests import checkpoints


def strict(text: str) -> dict[str, Any]:
    """JSON as every program reads it, without Python's own `NaN` and `Infinity`."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def run(*arguments: object) -> Result:
    """Runs the sub-command; errors of bertd come through as they are raised."""
    return CliRunner().invoke(adapter.app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(
    base_directory: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """An adapter that the command trained, and what the command printed."""
    out = tmp_path_factory.mktemp("adapters") / "tone.safetensors"
    result = run(
        *("train", "--base", base_directory, "--data", data, "--eval", data, "--out", out),
        *("--epochs", 6, "--batch-rows", 8, "--bias-rate", 0.03, "--head-rate", 0.03),
        *("--metric", "matthews", "-o", "json"),
    )
    return out, result


def test_train_writes_the_file_and_prints_the_record(trained: tuple[Path, Result]) -> None:
    """Standard output gets the record alone; the progress goes to standard error."""
    out, result = trained
    record: dict[str, Any] = json.loads(result.stdout)
    assert record["bytes"] == out.stat().st_size
    assert record["metric"] == "matthews"
    assert set(record["evaluation"]) >= {"accuracy", "f1", "matthews", "file", "sha256", "rows"}
    for epoch in range(1, 7):
        assert f"epoch {epoch}/6: matthews " in result.stderr


def test_inspect_prints_the_facts(trained: tuple[Path, Result]) -> None:
    """Both forms show digests, head, labels and the training record."""
    out, result = trained
    facts = json.loads(run("inspect", out, "-o", "json").stdout)
    record = json.loads(result.stdout)
    assert facts["digest"] == record["digest"]
    assert facts["labelNames"] == ["negative", "positive"]
    assert facts["head"] == {"kind": "linear", "input": "mean", "problem": "single_label"}
    assert facts["training"]["evaluation"] == record["evaluation"]
    table = run("inspect", out).stdout
    assert "linear on mean, single_label" in table
    assert "negative, positive" in table


def test_evaluate_agrees_with_the_record(
    trained: tuple[Path, Result], base_directory: Path, data: Path
) -> None:
    """The engine that serves measures what training recorded."""
    out, result = trained
    found = json.loads(
        run("evaluate", out, "--base", base_directory, "--data", data, "-o", "json").stdout
    )
    recorded = json.loads(result.stdout)["evaluation"]
    assert {name: found[name] for name in ("rows", "accuracy", "f1", "matthews")} == {
        name: recorded[name] for name in ("rows", "accuracy", "f1", "matthews")
    }


def test_evaluate_compares_two_precisions(
    trained: tuple[Path, Result], base_directory: Path, data: Path
) -> None:
    """Metrics before and after, agreement, drift, latency and bytes of both come in one go (F3)."""
    options = ("--base", base_directory, "--data", data, "--precision", "bf16")
    found = json.loads(
        run("evaluate", trained[0], *options, "--against", "fp32", "-o", "json").stdout
    )
    alone = json.loads(run("evaluate", trained[0], *options, "-o", "json").stdout)
    assert [found[side]["precision"] for side in ("before", "after")] == ["fp32", "bf16"]
    metrics = found["after"]["metrics"]
    assert set(metrics) == {"accuracy", "f1", "matthews"}
    assert {name: alone[name] for name in metrics} == metrics
    assert alone["computedIn"] == "bf16"
    for side in ("before", "after"):
        assert found[side]["loneRowMilliseconds"] > 0
        assert found[side]["rowsPerSecond"] > 0
    assert found["before"]["weightBytes"] > found["after"]["weightBytes"] > 0
    assert (found["rows"], found["decisions"]) == (48, 48)
    assert 0.9 <= found["agreement"] <= 1
    assert 0 < found["meanDrift"] < found["maxDrift"]
    table = run("evaluate", trained[0], *options, "--against", "fp32").stdout
    assert "bf16 against fp32" in table
    for line in ("matthews", "ms for a lone row", "bytes of weights", "decided alike", "drift"):
        assert line in table


def test_evaluate_the_head_of_a_base(tmp_path: Path) -> None:
    """Without an adapter a checkpoint's own head answers; its outputs may be named (F3)."""
    checkpoints.write(tmp_path / "base", labels=2)
    data = tmp_path / "dev.tsv"
    data.write_text("x\t1\t\tw1 w2\nx\t0\t*\tw3 w1\n" * 3)
    options = ("--base", tmp_path / "base", "--data", data, "--columns", "source,label,mark,text")
    with pytest.raises(errors.InvalidRequest, match=r"unknown label '1'; known: 'LABEL_0'"):
        run("evaluate", *options)
    with pytest.raises(errors.InvalidRequest, match="must name 2 different outputs, got 3"):
        run("evaluate", *options, "--labels", "a,b,c")
    found = json.loads(run("evaluate", *options, "--labels", "0,1", "-o", "json").stdout)
    assert found["rows"] == 6
    assert found["base"] == str(tmp_path / "base")
    assert {"accuracy", "matthews"} <= found.keys()


def test_evaluate_a_regression_decides_nothing(tmp_path: Path) -> None:
    """Numbers have a drift and no share; one class for all has no correlation: null, never NaN."""
    checkpoints.write(tmp_path / "base", labels=1, problem_type="regression")
    data = tmp_path / "dev.jsonl"
    data.write_text('{"text": "w1 w2", "label": 0.5}\n{"text": "w3", "label": 0.5}\n')
    options = ("--base", tmp_path / "base", "--data", data, "--against", "fp32")
    found = strict(run("evaluate", *options, "--precision", "int8", "-o", "json").stdout)
    assert (found["rows"], found["decisions"], found["agreement"]) == (2, 0, None)
    assert found["sureAgreement"] is None
    assert found["maxDrift"] > 0
    assert "decided alike" not in run("evaluate", *options).stdout


def test_evaluate_a_tagger_in_two_precisions(tmp_path: Path) -> None:
    """Every word that has a token is a decision; one that was cut off is none."""
    checkpoints.write(tmp_path / "base", task="TokenClassification", labels=2)
    rows = [{"tokens": ["w1", "w2"], "tags": ["LABEL_0", "LABEL_1"]}]
    rows += [{"tokens": ["w3"] * 600, "tags": ["LABEL_0"] * 600}]
    data = tmp_path / "dev.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--base", tmp_path / "base", "--data", data, "--against", "fp32")
    found = strict(run("evaluate", *options, "--precision", "int8", "-o", "json").stdout)
    assert 2 < found["decisions"] < 602
    assert found["maxDrift"] < 1


def test_what_json_has_no_number_for_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs read the output of a precision that overflowed."""
    adapter_printing.as_json(
        {"drift": math.inf, "parts": [math.nan, 1.5], "side": {"x": -math.inf}}
    )
    assert strict(capsys.readouterr().out) == {
        "drift": None,
        "parts": [None, 1.5],
        "side": {"x": None},
    }


def test_evaluate_refuses_unknown_labels(
    trained: tuple[Path, Result], base_directory: Path, tmp_path: Path
) -> None:
    """A label that the adapter does not know is named with its line."""
    path = tmp_path / "other.csv"
    path.write_text("text,label\ngood,positive\nso so,neutral\n")
    with pytest.raises(
        errors.InvalidRequest, match="3: unknown label 'neutral'; known: 'negative'"
    ):
        run("evaluate", trained[0], "--base", base_directory, "--data", path)


def test_several_labels_with_fitted_thresholds(base_directory: Path, tmp_path: Path) -> None:
    """Cells of labels train; what was fitted is printed, and `evaluate` decides by it."""
    data, out = tmp_path / "topics.csv", tmp_path / "topics.safetensors"
    rows = [("good", "up"), ("bad", "down|other"), ("word1", ""), ("good bad", "up|down|other")]
    data.write_text("words,topics\n" + "".join(f"{text},{cell}\n" for text, cell in rows * 6))
    columns = ("--text-column", "words", "--label-column", "topics", "--separator", "|")
    trained = run(
        *("train", "--base", base_directory, "--data", data, "--eval", data, "--out", out),
        *("--problem", "multi_label", "--calibrate", "--fit-thresholds", "--epochs", 2, *columns),
    )
    assert "labels" in trained.stdout
    assert "down, other, up" in trained.stdout
    assert "calibration" in trained.stdout
    assert "nllBefore" in trained.stdout
    facts = json.loads(run("inspect", out, "-o", "json").stdout)
    assert facts["head"]["problem"] == "multi_label"
    assert facts["temperature"] == facts["training"]["calibration"]["temperature"]
    assert facts["thresholds"] == facts["training"]["thresholds"]
    found = json.loads(
        run(
            "evaluate", out, "--base", base_directory, "--data", data, "-o", "json", *columns
        ).stdout
    )
    recorded = facts["training"]["evaluation"]
    assert {name: found[name] for name in ("rows", "f1", "macro_f1", "accuracy")} == {
        name: recorded[name] for name in ("rows", "f1", "macro_f1", "accuracy")
    }


def test_tagged_words_need_no_column_names(base_directory: Path, tmp_path: Path) -> None:
    """A conll file trains and is evaluated as it is; the epochs are told by their own metric."""
    data, out = tmp_path / "tags.conll", tmp_path / "tags.safetensors"
    data.write_text("word1\tO\ngood\tB-x\nfine\tI-x\n\nbad\tO\n\n" * 8)
    trained = run(
        *("train", "--base", base_directory, "--data", data, "--out", out),
        *("--problem", "token", "--epochs", 2),
    )
    assert "epoch 2/2: f1 " in trained.stderr
    found = run("evaluate", out, "--base", base_directory, "--data", data).stdout
    for name in ("rows", "f1", "precision", "recall", "accuracy"):
        assert name in found


def test_options_of_another_problem_are_refused(base_directory: Path, data: Path) -> None:
    """What has no meaning for a problem is said before anything is trained."""
    common = ("train", "--base", base_directory, "--data", data, "--out", data.parent / "x")
    with pytest.raises(errors.InvalidRequest, match="`calibrate` has no meaning for the problem"):
        run(*common, "--problem", "regression", "--calibrate")
    with pytest.raises(errors.InvalidRequest, match=r"must be a \.jsonl, \.csv or \.tsv|a list of"):
        run(*common, "--problem", "token")


@pytest.mark.parametrize("contents", [b"", b"\x80\x04\x95pickle", b"\xff" * 64])
def test_inspect_refuses_what_is_no_adapter(tmp_path: Path, contents: bytes) -> None:
    """Empty, pickled and random files are refused, not crashed upon."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(contents)
    with pytest.raises(errors.BadArtifact):
        run("inspect", path)


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    """An unknown metric and a missing option exit with 2 before anything is read."""
    assert run("train", "--metric", "mcc").exit_code == 2
    assert run("train", "--problem", "ranking").exit_code == 2
    assert run("train", "--precision", "int8").exit_code == 2
    refused = run("evaluate", "--base", "b", "--data", tmp_path, "--precision", "fp8")
    assert refused.exit_code == 2
    assert "int8" in refused.stderr
    assert run("train", "--base", tmp_path).exit_code == 2
    assert run("evaluate", tmp_path / "a").exit_code == 2


def test_the_command_starts_without_torch() -> None:
    """Importing the sub-command loads neither torch nor transformers nor numpy."""
    code = (
        "import sys; from bertd.cli import adapter; "
        "print({'torch', 'transformers', 'numpy', 'grpc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
