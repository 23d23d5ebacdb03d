"""From labels to truths and targets, from logits to answers, and which token speaks for a word."""

import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from bertd import errors
from bertd.bitfit import calibration, problems, tables

NAMES = ("a", "b", "c")


def table(*labels: tuple[str, ...]) -> tables.Table:
    """Rows with these labels."""
    return tables.Table(
        path=Path("t.jsonl"),
        digest="",
        texts=("x",) * len(labels),
        labels=labels,
        lines=tuple(range(1, len(labels) + 1)),
    )


def test_every_kind_has_its_truth() -> None:
    """A class, a set of classes, a number, a class for each word."""
    kinds = problems.BY_NAME
    assert kinds["single_label"].truth(table(("b",), ("a",)), NAMES) == [1, 0]
    several = kinds["multi_label"].truth(table(("c", "a"), ()), NAMES)
    assert several == [frozenset({0, 2}), frozenset()]
    assert kinds["regression"].truth(table(("2.5",), ("-1",)), ("value",)) == [2.5, -1.0]
    assert kinds["token"].truth(table(("a", "c", "a"), ("b",)), NAMES) == [(0, 2, 0), (1,)]


def test_every_kind_names_its_outputs() -> None:
    """Labels come sorted from the data; one label of several is enough; a number has one name."""
    kinds = problems.BY_NAME
    assert kinds["multi_label"].label_names(table(("x",), ()), ()) == ("x",)
    assert kinds["token"].label_names(table(("O", "B-x")), ()) == ("B-x", "O")
    assert kinds["regression"].label_names(table(("1",)), ()) == ("value",)
    assert kinds["regression"].label_names(table(("1",)), ("stars",)) == ("stars",)


@pytest.mark.parametrize("kind", ["single_label", "token"])
def test_one_label_is_nothing_to_choose_from(kind: str) -> None:
    """Exclusive labels need a second one."""
    with pytest.raises(errors.InvalidRequest, match="2 to 4096 different labels, found 1"):
        problems.BY_NAME[kind].label_names(table(("x",)), ())


def test_wrong_numbers_of_outputs_are_refused() -> None:
    """No labels at all, two names for one number, and data that cannot judge two values."""
    with pytest.raises(errors.InvalidRequest, match="1 to 4096 different labels, found 0"):
        problems.BY_NAME["multi_label"].label_names(table((), ()), ())
    regression = problems.BY_NAME["regression"]
    with pytest.raises(errors.InvalidRequest, match="a regression has one value, got a, b"):
        regression.label_names(table(("1",)), ("a", "b"))
    with pytest.raises(errors.InvalidRequest, match="predicts 2 values"):
        regression.truth(table(("1",)), ("a", "b"))


def test_targets() -> None:
    """What the loss sees: a class, hot labels, a number, and tags at first tokens alone."""
    kinds, skip = problems.BY_NAME, problems.IGNORED
    assert kinds["single_label"].target(2, 3, (0,), 5) == 2
    assert kinds["multi_label"].target(frozenset({2}), 3, (0,), 5) == (0.0, 0.0, 1.0)
    assert kinds["regression"].target(0.5, 1, (0,), 5) == (0.5,)
    lost = problems.NO_CLASS
    assert kinds["token"].target((4, 5, 6), 3, (1, 3, lost), 5) == (skip, 4, skip, 5, skip)


def test_decisions() -> None:
    """The best class; every label at its threshold; the number; a class a word, none where lost."""
    kinds, rule = problems.BY_NAME, problems.Rule(temperature=2.0, thresholds={"b": 0.9})
    logits = np.array([[1.0, 3.0, -1.0]], np.float32)
    assert kinds["single_label"].decide(logits, NAMES, rule) == 1
    # sigmoid(3 / 2) is 0.82: below the threshold of b; a has one half and more
    assert kinds["multi_label"].decide(logits, NAMES, rule) == {0}
    assert kinds["multi_label"].decide(logits, NAMES, problems.Rule()) == {0, 1}
    assert kinds["regression"].decide(logits, NAMES, rule) == 1.0
    words = problems.pick(np.concatenate([logits, -logits]), (1, -1, 0))
    assert kinds["token"].decide(words, NAMES, rule) == (2, problems.NO_CLASS, 1)


def test_a_lost_word_is_wrong_and_no_entity() -> None:
    """A word without a token counts against accuracy and recall, and invents nothing."""
    names = ("B-x", "O")
    measured = problems.BY_NAME["token"].measure([(0, 1, 1)], [(problems.NO_CLASS, -1, 1)], names)
    assert measured == {
        "f1": 0.0,
        "precision": 0.0,
        "recall": 0.0,
        "accuracy": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ab", "c"], (1, 3)),
        (["c", "\u200d", "ab"], (1, -1, 2)),
        (["abab", "abab", "abab", "abab"], (1, 5, -1, -1)),
        (["c"] * 7, (1, 2, 3, 4, 5, 6, -1)),
    ],
)
def test_the_first_token_speaks_for_a_word(words: list[str], expected: tuple[int, ...]) -> None:
    """Words of several tokens, of none, cut in two and cut off, in a row of eight tokens."""
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "##b": 4, "c": 5, "##a": 6})
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    tokenizer.enable_truncation(8)
    row = tokenizer.encode(" ".join(words))
    assert problems.firsts(words, row.offsets, row.special_tokens_mask) == expected


def test_a_token_may_hold_the_blank_before_its_word() -> None:
    """Byte-level and sentencepiece tokens begin at the blank: the word is still their own."""
    offsets = [(0, 0), (0, 2), (2, 3), (3, 3), (3, 6), (5, 6), (0, 0)]
    special = [True, False, False, False, False, False, True]
    # "ab", a blank as a token of its own, an empty token, then " cd" and a part of it
    assert problems.firsts(["ab", "", "cd"], offsets, special) == (1, -1, 4)


def test_temperature_finds_the_one_that_made_the_labels() -> None:
    """Labels drawn from softmax(z / 3) are fitted with 3, and the likelihood gains."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (20_000, 3))
    odds = problems.probabilities("single_label", logits / 3.0)
    drawn = (rng.random((20_000, 1)) > odds.cumsum(1)).sum(1).clip(max=2)
    fitted = calibration.temperature("single_label", logits, np.eye(3)[drawn])
    assert fitted.value == pytest.approx(3.0, rel=0.05)
    assert fitted.after < fitted.before


def test_temperature_of_independent_labels() -> None:
    """The same holds for labels drawn one by one from sigmoid(z * 2)."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (20_000, 2))
    drawn = (rng.random((20_000, 2)) < problems.probabilities("multi_label", logits * 2)) * 1.0
    fitted = calibration.temperature("multi_label", logits, drawn)
    assert fitted.value == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("right", "limit"),
    [(True, calibration.LOWEST_TEMPERATURE), (False, calibration.HIGHEST_TEMPERATURE)],
)
def test_temperature_is_bounded(right: bool, limit: float) -> None:
    """Rows that are all right, or all wrong, do not drive the temperature out of bounds."""
    logits = np.array([[5.0, -5.0], [-5.0, 5.0]])
    hot = np.eye(2) if right else np.eye(2)[::-1]
    fitted = calibration.temperature("single_label", logits, hot)
    assert fitted.value == pytest.approx(limit, rel=1e-3)
    assert math.isfinite(fitted.before)
    assert math.isfinite(fitted.after)


def test_thresholds_have_the_best_f1() -> None:
    """The limit falls between the scores that it parts; one half stays where it is as good."""
    scores = np.array([[0.1, 0.9, 0.3], [0.2, 0.8, 0.3], [0.3, 0.2, 0.3], [0.4, 0.1, 0.3]])
    holds = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]], float)
    assert calibration.thresholds(scores, holds, NAMES) == {"a": 0.25}


def test_thresholds_are_as_good_as_trying_all() -> None:
    """The search by sorting finds what trying a limit above every score but the highest finds."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = rng.random((12, 1)).round(2)
        holds = (rng.random((12, 1)) < 0.4) * 1.0
        limit = calibration.thresholds(scores, holds, ("a",)).get("a", 0.5)
        tried = [*(score + 0.001 for score in scores[:, 0] if score < scores.max()), 0.5]
        best = max(f1_at(scores, holds, each) for each in tried)
        assert f1_at(scores, holds, limit) == pytest.approx(best)


def f1_at(scores: np.ndarray, holds: np.ndarray, limit: float) -> float:
    """F1 of deciding at this limit."""
    said = scores[:, 0] >= limit
    hits = float((said & (holds[:, 0] > 0)).sum())
    return 2 * hits / max(float(said.sum() + holds.sum()), 1.0)
