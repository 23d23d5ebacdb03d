"""`predict`: texts in, labels out."""

import json

import grpc
import pytest

from bertd.cli import predict
from bertd.v1 import inference_pb2 as pb
from tests.cli import conftest


def test_a_table_of_answers(bertd, daemon):
    """Text, label and probability in columns; wide and long texts keep them aligned."""
    ran = bertd("predict", "english/sst2", "Loved it!!!", "中文", "x" * 100)
    assert ran.code == 0
    assert ran.out == (
        f"TEXT{' ' * 59}LABEL      PROBABILITY\n"
        f"Loved it!!!{' ' * 52}positive   0.750\n"
        f"中文{' ' * 59}positive   0.750\n"
        f"{'x' * 59}…   positive   0.750\n"
    )
    request = daemon.requests[-1]
    assert (request.model, request.adapter) == ("english", "sst2")
    assert [each.text for each in request.inputs] == ["Loved it!!!", "中文", "x" * 100]


def test_one_json_object_per_line_of_stdin(bertd, daemon):
    """Every line is an input, empty ones too, and order is kept over many calls."""
    lines = [f"line {i}" for i in range(100)] + ["", "end"]
    ran = bertd("predict", "english", "-o", "json", stdin="\n".join(lines) + "\n")
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["text"] for each in answers] == lines
    assert answers[0] == {
        "text": "line 0",
        "label": "positive",
        "score": 0.75,
        "scores": {"negative": 0.25, "positive": 0.75},
        "model": "english",
        "adapter": "",
        "revision": "english-1a2b",
    }
    assert len(daemon.requests) == 2
    assert max(len(each.inputs) for each in daemon.requests) == predict.TEXTS_PER_CALL


def test_several_labels(bertd, daemon):
    """A multi-label answer prints every decided label with its probability."""
    daemon.problem = pb.PROBLEM_TYPE_MULTI_LABEL
    daemon.answer.labels[:] = ["negative", "positive"]
    row = bertd("predict", "english", "a text").out.splitlines()[1]
    assert row == "a text   negative, positive   0.250, 0.750"
    answer = json.loads(bertd("predict", "english", "hm", "-o", "json").out)
    assert answer["labels"] == ["negative", "positive"]


def test_below_the_threshold_no_label(bertd, daemon):
    """Without a decided label the column is `-`, and the best probability still shows."""
    del daemon.answer.labels[:]
    row = bertd("predict", "english", "a text").out.splitlines()[1]
    assert row == "a text   -       0.750"
    assert json.loads(bertd("predict", "english", "hm", "-o", "json").out)["label"] is None


def test_a_label_cannot_steer_the_terminal(bertd, daemon):
    """Label names come from adapter files, whoever wrote those."""
    daemon.answer.scores[1].label = daemon.answer.labels[0] = "bad\x1b[2J"
    assert "bad [2J" in bertd("predict", "english", "a text").out


def test_a_regression_has_a_value(bertd, daemon):
    """A number is no probability and has no label; in JSON it stays where scores are."""
    daemon.problem = pb.PROBLEM_TYPE_REGRESSION
    daemon.answer.CopyFrom(pb.Classification(scores=[pb.Score(label="value", score=3.5)]))
    assert bertd("predict", "english", "a text").out == "TEXT     VALUE\na text   3.5\n"
    assert json.loads(bertd("predict", "english", "hm", "-o", "json").out)["score"] == 3.5


def test_tags(bertd, daemon):
    """`--tags` prints a line for each token, `-` where none is decided, or an object per text."""
    ran = bertd("predict", "english/ner", "a b", "c\t", "--tags")
    assert ran.out == (
        "TOKEN   LABEL   PROBABILITY\na       O       0.500\nb       -       0.500\n"
        "c       -       0.500\n"
    )
    assert (daemon.requests[-1].model, daemon.requests[-1].adapter) == ("english", "ner")
    (line,) = bertd("predict", "english/ner", "a b", "--tags", "-o", "json").out.splitlines()
    assert json.loads(line) == {
        "text": "a b",
        "tags": [
            {"token": "a", "start": 0, "end": 1, "label": "O", "score": 0.5},
            {"token": "b", "start": 2, "end": 3, "label": None, "score": 0.5},
        ],
        "model": "english",
        "adapter": "ner",
        "revision": "e-1",
    }


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (grpc.StatusCode.NOT_FOUND, "there is no model 'english'", 1),
        (grpc.StatusCode.INVALID_ARGUMENT, "model 'english' has no head of its own", 2),
        (grpc.StatusCode.FAILED_PRECONDITION, "the base is gone", 1),
    ],
)
def test_a_refusal_is_printed(bertd, daemon, status, text, code):
    """An unknown model, one without a classifier, one that cannot serve: the daemon's own words."""
    daemon.refusal = (status, text)
    assert bertd("predict", "english", "hi") == conftest.Ran(code, "", f"error: {text}\n")


def test_stdin_that_is_not_text_is_invalid(bertd, daemon):
    """A line that is not UTF-8 is named; nothing is sent."""
    ran = bertd("predict", "english", stdin=b"fine\n\xff\xfe\n")
    assert ran.code == 2
    assert "line 2 of stdin must be UTF-8" in ran.err
    assert daemon.requests == []


def test_no_input_prints_nothing(bertd, daemon):
    """An empty stdin is no error and no call."""
    assert bertd("predict", "english", stdin="") == conftest.Ran(0, "", "")
    assert daemon.requests == []
