"""What the benchmark of accuracy finds, counts and reports, and what was recorded with it."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy import __main__ as program
from benchmarks.accuracy import measuring, report, tasks

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDED = sorted(RESULTS.glob("accuracy-*.json"))
QUESTIONS = """\
HUM:ind Who wrote Hamlet ?
NUM:dist How far is the moon ?
LOC:other Where is Oslo ?
"""


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> Path:
    """A folder that has one of the published sets, and a part of another."""
    (tmp_path / "trec").mkdir()
    (tmp_path / "trec" / "test.txt").write_text(QUESTIONS)
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "in_domain_dev.tsv").write_text("")
    (tmp_path / "scratch").mkdir()
    return tmp_path


def test_what_is_missing_is_told_and_the_rest_is_measured(data: Path) -> None:
    """Every set that is not there, or not whole, is named with the files that it lacks."""
    found, missing = tasks.find(data, None, data / "scratch")
    assert [task.name for task in found] == ["trec"]
    assert found[0].table.texts[0] == "Who wrote Hamlet ?"
    assert found[0].table.labels == (("human",), ("number",), ("location",))
    assert [line.partition(":")[0] for line in missing] == ["sst2", "snips", "cola", "wnut17"]
    assert missing[2].endswith("cola lacks out_of_domain_dev.tsv")
    assert missing[3] == "wnut17: no checkpoint was named with --ner"


@pytest.mark.parametrize("wrong", [("--precision", "int4"), ("--against", "fp8")])
def test_a_precision_that_the_cpu_has_not_is_a_usage_error(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[str, str],
) -> None:
    """A typing error ends before anything is measured, with what there is."""
    monkeypatch.setattr(sys, "argv", ["accuracy", "--data", str(data), *wrong])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert "invalid choice" in capsys.readouterr().err


def test_tags_of_wnut_become_tags_of_conll(data: Path) -> None:
    """Sentences stay apart, and every type has its counterpart."""
    source = data / tasks.WNUT17
    source.parent.mkdir()
    source.write_text(
        "Oslo\tB-location\n's\tO\n\t\n\nHamlet\tB-creative-work\nII\tI-creative-work\n"
    )
    found, missing = tasks.find(data, data, data / "scratch")
    tagger = found[-1]
    assert tagger.table.words == (("Oslo", "'s"), ("Hamlet", "II"))
    assert tagger.table.labels == (("B-LOC", "O"), ("B-MISC", "I-MISC"))
    assert not any("wnut17" in line for line in missing)


def test_a_demo_adapter_in_two_precisions(data: Path) -> None:
    """The record of real questions has agreement, metrics, drift, speed and bytes of both (F3)."""
    found, missing = tasks.find(data, None, data / "scratch")
    measured = measuring.measure(found, "bf16", "fp32")
    (record,) = measured.tasks
    assert record["agreement"]["share"] == 1.0
    assert 0 < record["agreement"]["mean_drift"] < record["agreement"]["max_drift"] < 0.5
    for side, precision in (("before", "fp32"), ("after", "bf16")):
        assert record[side]["precision"] == precision
        assert record[side]["metrics"]["accuracy"] == 1.0
        assert record[side]["lone_row_s"] > 0
        assert record[side]["weight_bytes"] > 0
    (base,) = measured.bases
    assert 0.99 < base["min_cosine"] <= base["mean_cosine"] < 1.0001
    result = {
        "date": "2026-11-20",
        "command": "python -m benchmarks.accuracy",
        **report.hardware(1),
        "against": "fp32",
        "tasks": measured.tasks,
        "pooled": report.pooled(measured.tasks),
        "bases": measured.bases,
        "missing": missing,
    }
    text = report.markdown(result | {"bars": report.bars(result)})
    assert "| trec | bf16 | 3 | 100.00% |" in text
    assert "Not measured: sst2:" in text
    assert "missed" not in text


def test_bars_are_missed_by_name() -> None:
    """Too many flips, a sure flip and a lost point each show as missed."""
    agreement = {"decisions": 1000, "equal": 990, "sure": 900, "sure_equal": 890, "logits": 2000}
    agreement |= {"total_drift": 20.0, "max_drift": 0.5}
    sides = {
        side: {"metrics": {"accuracy": value}} for side, value in (("before", 0.9), ("after", 0.89))
    }
    names = {"task": "trec", "base": "minilm", "precision": "int8", "metric": "accuracy"}
    record = names | {"agreement": agreement | {"sure_share": 890 / 900}} | sides
    result = {"tasks": [record], "pooled": report.pooled([record])}
    assert result["pooled"][0]["share"] == 0.99
    assert [bar["met"] for bar in report.bars(result)] == [False, False, False]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_results_name_their_machine(path: Path) -> None:
    """What was recorded says with which hardware, versions and date, and how to repeat it."""
    result = json.loads(path.read_text())
    assert {"cpu", "torch", "date", "threads", "command"} <= result.keys()
    assert {"sst2", "trec", "snips", "cola"} <= {record["task"] for record in result["tasks"]}
    assert report.markdown(result) == path.with_suffix(".md").read_text()
    assert report.bars(result) == result["bars"]
