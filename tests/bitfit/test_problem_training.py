"""Training for every kind of problem, from data file to what the serving engine answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bertd import errors
from bertd.bitfit import bases, problems, rows, tables, training
from bertd.bitfit.config import TrainConfig
from bertd.checkpoint import adapter_file
from bertd.cli import adapter
from bertd.engine import session
from tests import checkpoints
from tests.bitfit.conftest import BAD, GOOD, OTHER

Config = Callable[..., TrainConfig]

TAGGED = tables.Columns(text="tokens", label="tags")
FAMILIES = ("bert", "roberta", "distilbert", "electra", "mpnet")


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    """A jsonl file."""
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """48 rows for each kind: topics that occur, how many good words, tagged words, pairs."""
    folder = tmp_path_factory.mktemp("problems")
    several, numbers, pairs, tagged = [], [], [], []
    for n in range(48):
        good, bad, other = GOOD[n % 4], BAD[(n // 4) % 4], OTHER[n % 30]
        labels = [name for name, bit in (("good", 1), ("bad", 2)) if n & bit]
        text = " ".join([other, *[good] * (n & 1), *[bad] * (n >> 1 & 1)])
        several.append({"text": text, "label": labels})
        numbers.append({"text": text, "label": 2000.0 + 10 * ((n & 1) - (n >> 1 & 1))})
        second = good if n & 1 else bad
        pairs.append({"text": good, "other": second, "label": "same" if n & 1 else "else"})
        words, tags = [other, good, OTHER[n % 7], bad], ["O", "B-up", "O", "B-down"]
        tagged.append({"tokens": words[: n % 4 + 1], "tags": tags[: n % 4 + 1]})
    return {
        "multi_label": lines(folder / "several.jsonl", several),
        "regression": lines(folder / "numbers.jsonl", numbers),
        "single_label": lines(folder / "pairs.jsonl", pairs),
        "token": lines(folder / "tagged.jsonl", tagged),
    }


def asked_of(config: Config, files: dict[str, Path], problem: str, **changes: Any) -> TrainConfig:
    """A quick run on the rows of this problem."""
    columns = tables.Columns(text="text", label="label")
    if problem == "single_label":
        columns = tables.Columns(text="text", label="label", pair="other")
    options: dict[str, Any] = {
        "problem": problem,
        "data": files[problem],
        "evaluation": files[problem],
        "columns": TAGGED if problem == "token" else columns,
        "epochs": 12,
    }
    return config(**(options | changes))


def served(asked: TrainConfig) -> tuple[list[np.ndarray], tables.Table, adapter_file.AdapterInfo]:
    """The logits that the engine gives every row of the evaluation data, and what it is told."""
    opened = session.Session.open(asked.base)
    slot = opened.load_adapter(asked.output)
    table = tables.read(asked.evaluation or asked.data, asked.columns, asked.problem)
    if asked.problem == "token":
        answers = opened.tag(table.texts, slot)
    else:
        answers = [row_C[None] for row_C in opened.classify(table.texts, slot)]
    return answers, table, adapter_file.read_info(asked.output)


@pytest.mark.parametrize(
    ("problem", "metric", "least"),
    [("multi_label", "f1", 0.8), ("regression", "pearson", 0.8), ("token", "f1", 0.8)],
)
def test_the_engine_measures_what_training_recorded(
    config: Config, files: dict[str, Path], problem: str, metric: str, least: float
) -> None:
    """Each kind learns, and `evaluate` with the serving engine finds the recorded values."""
    asked = asked_of(config, files, problem)
    result = training.train(asked)
    assert result.metric == metric
    assert result.evaluation is not None
    assert result.evaluation[metric] > least
    command = ["evaluate", str(asked.output), "--base", asked.base, "--data", str(asked.data)]
    done = CliRunner().invoke(adapter.app, [*command, "-o", "json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    for name, value in result.evaluation.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression", "token"])
def test_head_and_problem_are_what_the_daemon_needs(
    config: Config, files: dict[str, Path], problem: str
) -> None:
    """The served logits are the trained model's own, for texts, pairs and words."""
    asked = asked_of(config, files, problem, epochs=1, max_length=32)
    result = training.train(asked)
    vectors, table, info = served(asked)
    assert info.head.problem == problem
    assert info.head.input == ("token" if problem == "token" else "mean")
    kind = problems.BY_NAME[problem]
    base = bases.load(asked.base, asked.max_length)
    encoded = rows.encode(base.tokenizer, table)
    decided = [
        kind.decide(problems.pick(vector, row.picks), info.label_names, problems.Rule())
        for vector, row in zip(vectors, encoded, strict=True)
    ]
    truth = kind.truth(table, info.label_names)
    measured = kind.measure(truth, decided, info.label_names)
    assert result.evaluation is not None
    assert measured == pytest.approx(dict(result.evaluation), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("problem", ["token", "regression"])
def test_every_family_learns_and_serves(tmp_path: Path, family: str, problem: str) -> None:
    """Tags and numbers train on each family, and the engine agrees with the record."""
    base = tmp_path / "base"
    checkpoints.write(base, family)
    records = []
    for n in range(12):
        words = [f"w{n + k}" for k in range(n % 4 + 1)]
        tags = [("O", "B-x", "I-x")[(n + k) % 3] for k in range(len(words))]
        if problem == "token":
            records.append({"tokens": words, "tags": tags})
        else:
            records.append({"text": " ".join(words), "label": n / 4})
    data = lines(tmp_path / "data.jsonl", records)
    asked = TrainConfig(
        base=str(base),
        data=data,
        evaluation=data,
        columns=TAGGED if problem == "token" else tables.Columns(text="text", label="label"),
        output=tmp_path / "a.safetensors",
        problem=problem,
        epochs=1,
    )
    result = training.train(asked)
    vectors, table, info = served(asked)
    kind = problems.BY_NAME[problem]
    loaded = bases.load(str(base), 128)
    picks = [row.picks for row in rows.encode(loaded.tokenizer, table)]
    decided = [
        kind.decide(problems.pick(vector, pick), info.label_names, problems.Rule())
        for vector, pick in zip(vectors, picks, strict=True)
    ]
    measured = kind.measure(kind.truth(table, info.label_names), decided, info.label_names)
    assert measured == pytest.approx(dict(result.evaluation or {}), abs=1e-4)


def test_a_regression_is_served_in_the_units_of_its_data(
    config: Config, files: dict[str, Path]
) -> None:
    """Numbers around 2000 are learned at the usual rates and come back as such, not as units."""
    asked = asked_of(config, files, "regression", epochs=8, labels=("year",), metric="mae")
    result = training.train(asked)
    vectors, _, info = served(asked)
    assert info.label_names == ("year",)
    assert all(1970 < float(vector[0, 0]) < 2030 for vector in vectors)
    assert result.validation["mae"] == pytest.approx(min(result.history), abs=1e-3)
    assert result.history[result.best_epoch - 1] == min(result.history)


def test_thresholds_and_temperature_are_written_and_used(
    config: Config, files: dict[str, Path]
) -> None:
    """Both are fitted on the validation rows, recorded, and decide the recorded values."""
    asked = asked_of(config, files, "multi_label", epochs=2, calibrate=True, fit_thresholds=True)
    result = training.train(asked)
    vectors, table, info = served(asked)
    calibration = result.record["calibration"]
    assert isinstance(calibration, dict)
    assert calibration["temperature"] == info.temperature
    assert calibration["nllAfter"] <= calibration["nllBefore"]
    assert calibration["rows"] == 10
    assert info.thresholds == result.record["thresholds"]
    rule = problems.Rule(temperature=info.temperature, thresholds=info.thresholds)
    kind = problems.BY_NAME["multi_label"]
    decided = [kind.decide(vector, info.label_names, rule) for vector in vectors]
    measured = kind.measure(kind.truth(table, info.label_names), decided, info.label_names)
    assert measured == pytest.approx(dict(result.evaluation or {}), abs=1e-6)


def test_a_temperature_moves_no_decision(config: Config, files: dict[str, Path]) -> None:
    """With and without calibration the recorded values are the same, and the file says which."""
    plain = training.train(asked_of(config, files, "token", epochs=1))
    assert "calibration" not in plain.record
    assert adapter_file.read_info(plain.output).temperature == 1.0
    fitted = training.train(asked_of(config, files, "token", epochs=1, calibrate=True))
    assert fitted.evaluation == plain.evaluation
    assert adapter_file.read_info(fitted.output).temperature != 1.0


def test_tags_that_are_not_iob2_are_judged_by_accuracy(config: Config, tmp_path: Path) -> None:
    """Parts of speech train too; asking for entities' F1 is refused with a way out."""
    data = lines(
        tmp_path / "pos.jsonl",
        [{"tokens": ["good", "bad"], "tags": ["UP", "DOWN"]}, {"tokens": ["bad"], "tags": ["DOWN"]}]
        * 4,
    )
    changes = {"problem": "token", "columns": TAGGED, "data": data, "evaluation": data}
    result = training.train(config(epochs=1, **changes))
    assert result.metric == "accuracy"
    assert set(result.evaluation or {}) == {"accuracy"}
    with pytest.raises(errors.InvalidRequest, match=r"needs tags in IOB2 .* \(hint: use accuracy"):
        training.train(config(metric="f1", **changes))


def test_words_that_are_cut_off_count_as_missed(config: Config, tmp_path: Path) -> None:
    """A sentence longer than `max_length` trains, and its lost words are wrong answers."""
    data = lines(
        tmp_path / "long.jsonl",
        [{"tokens": ["good"] * 30 + ["bad"], "tags": ["O"] * 30 + ["B-x"]}] * 8,
    )
    result = training.train(
        config(problem="token", columns=TAGGED, data=data, evaluation=data, max_length=16, epochs=2)
    )
    assert result.evaluation is not None
    assert result.evaluation["accuracy"] <= 14 / 31
    assert result.evaluation["recall"] == 0.0


def test_no_token_to_calibrate_on(config: Config, tmp_path: Path) -> None:
    """Rows of words without tokens cannot be calibrated on, and that is said."""
    data = lines(
        tmp_path / "nothing.jsonl",
        [{"tokens": ["\u2003", "\u2003"], "tags": ["O", "B-x"]}] * 4,
    )
    with pytest.raises(errors.InvalidRequest, match="no word of the validation rows has a token"):
        training.train(
            config(
                problem="token",
                columns=TAGGED,
                data=data,
                evaluation=None,
                calibrate=True,
                epochs=1,
            )
        )


@pytest.mark.parametrize("problem", ["multi_label", "regression", "token"])
def test_one_row_cannot_be_split(
    config: Config, files: dict[str, Path], tmp_path: Path, problem: str
) -> None:
    """Some row is needed to learn from and another to validate on."""
    path = tmp_path / "one.jsonl"
    path.write_text(files[problem].read_text().splitlines()[3])
    with pytest.raises(errors.InvalidRequest, match="must have two rows or more"):
        training.train(asked_of(config, files, problem, data=path))


def test_unknown_labels_in_the_evaluation(
    config: Config, files: dict[str, Path], tmp_path: Path
) -> None:
    """A tag that training never saw is named with its line."""
    path = lines(tmp_path / "e.jsonl", [{"tokens": ["good"], "tags": ["B-odd"]}])
    with pytest.raises(errors.InvalidRequest, match=r"e\.jsonl:1: unknown label 'B-odd'"):
        training.train(asked_of(config, files, "token", evaluation=path, epochs=1))
