"""The kinds of problem that an adapter can learn: what a row's truth is, and how logits answer it.

One class for each of `declared.PROBLEMS`, all with the same methods, so that training, calibration
and evaluation are written once. A truth is an int (`single_label`), a set of ints (`multi_label`),
a float (`regression`) or a tuple of ints, one for every word (`token`). Free of torch.

Shapes: n = 1, or the words of a row for `token`; C labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bertd import errors
from bertd.bitfit import scores, tables

# What stands for a word that has no token (cut off, or nothing but blanks): no class at all.
NO_CLASS: Final = -1
# Where a token's class is not asked for; torch's losses skip it by this number.
IGNORED: Final = -100
THRESHOLD: Final = 0.5

T = TypeVar("T")
Floats = NDArray[np.float32] | NDArray[np.float64]
Target = int | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How the daemon decides from logits: scores of logits / temperature against thresholds."""

    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)


class Problem(Protocol[T]):
    """One kind of problem; T is its truth."""

    name: str

    def label_names(self, table: tables.Table, given: Sequence[str]) -> tuple[str, ...]:
        """The names of the outputs, in order."""

    def truth(self, table: tables.Table, names: Sequence[str]) -> list[T]:
        """The truth of every row. Raises errors.InvalidRequest, naming file and line."""

    def strata(self, truth: Sequence[T]) -> list[int]:
        """What a split keeps in equal shares."""

    def target(self, truth: T, labels: int, picks: Sequence[int], tokens: int) -> Target:
        """What the loss compares a row's logits with."""

    def marks(self, truth: T) -> list[tuple[int, ...]]:
        """The classes that hold for each of the n rows of logits."""

    def decide(self, logits_nC: Floats, names: Sequence[str], rule: Rule) -> T:
        """The answer that these logits give."""

    def measure(
        self, truth: Sequence[T], decided: Sequence[T], names: Sequence[str]
    ) -> dict[str, float]:
        """Every metric of this problem."""


class SingleLabel:
    """One class a text."""

    name = "single_label"

    def label_names(self, table: tables.Table, given: Sequence[str]) -> tuple[str, ...]:
        """The labels of the data, two or more."""
        return tables.label_names(table, given)

    def truth(self, table: tables.Table, names: Sequence[str]) -> list[int]:
        """The class of every row."""
        return [label for (label,) in tables.classes(table, names)]

    def strata(self, truth: Sequence[int]) -> list[int]:
        """The classes."""
        return list(truth)

    def target(self, truth: int, labels: int, picks: Sequence[int], tokens: int) -> Target:
        """The class."""
        return truth

    def marks(self, truth: int) -> list[tuple[int, ...]]:
        """The class."""
        return [(truth,)]

    def decide(self, logits_nC: Floats, names: Sequence[str], rule: Rule) -> int:
        """The class of the highest logit."""
        return int(logits_nC[0].argmax())

    def measure(
        self, truth: Sequence[int], decided: Sequence[int], names: Sequence[str]
    ) -> dict[str, float]:
        """Accuracy, F1, Matthews correlation."""
        return scores.measure(truth, decided, len(names))


class MultiLabel:
    """Any number of labels a text."""

    name = "multi_label"

    def label_names(self, table: tables.Table, given: Sequence[str]) -> tuple[str, ...]:
        """The labels of the data; one may be enough, being there or not."""
        return tables.label_names(table, given, least=1)

    def truth(self, table: tables.Table, names: Sequence[str]) -> list[frozenset[int]]:
        """The classes of every row."""
        return [frozenset(labels) for labels in tables.classes(table, names)]

    def strata(self, truth: Sequence[frozenset[int]]) -> list[int]:
        """Nothing: rows are drawn as they come."""
        return [0] * len(truth)

    def target(
        self, truth: frozenset[int], labels: int, picks: Sequence[int], tokens: int
    ) -> Target:
        """1.0 for every label that holds, else 0.0."""
        return tuple(float(label in truth) for label in range(labels))

    def marks(self, truth: frozenset[int]) -> list[tuple[int, ...]]:
        """All labels that hold."""
        return [tuple(sorted(truth))]

    def decide(self, logits_nC: Floats, names: Sequence[str], rule: Rule) -> frozenset[int]:
        """Every label whose score reaches its threshold."""
        scores_C = probabilities(self.name, logits_nC[:1] / rule.temperature)[0]
        limits = [rule.thresholds.get(name, THRESHOLD) for name in names]
        return frozenset(np.flatnonzero(scores_C >= np.array(limits)).tolist())

    def measure(
        self,
        truth: Sequence[frozenset[int]],
        decided: Sequence[frozenset[int]],
        names: Sequence[str],
    ) -> dict[str, float]:
        """Micro F1, macro F1, share of rows that are all right."""
        return scores.measure_sets(truth, decided, len(names))


class Regression:
    """One number a text."""

    name = "regression"

    def label_names(self, table: tables.Table, given: Sequence[str]) -> tuple[str, ...]:
        """The given name, or `value`."""
        if len(given) > 1:
            raise errors.InvalidRequest(f"a regression has one value, got {', '.join(given)}")
        return tuple(given) or ("value",)

    def truth(self, table: tables.Table, names: Sequence[str]) -> list[float]:
        """The number of every row."""
        if len(names) != 1:
            raise errors.InvalidRequest(
                f"the adapter predicts {len(names)} values, and the data gives one a row"
            )
        return tables.values(table)

    def strata(self, truth: Sequence[float]) -> list[int]:
        """Nothing: rows are drawn as they come."""
        return [0] * len(truth)

    def target(self, truth: float, labels: int, picks: Sequence[int], tokens: int) -> Target:
        """The number."""
        return (truth,)

    def marks(self, truth: float) -> list[tuple[int, ...]]:
        """Nothing: a number is no class."""
        return []

    def decide(self, logits_nC: Floats, names: Sequence[str], rule: Rule) -> float:
        """The predicted number itself."""
        return float(logits_nC[0, 0])

    def measure(
        self, truth: Sequence[float], decided: Sequence[float], names: Sequence[str]
    ) -> dict[str, float]:
        """Pearson, Spearman, mean absolute error."""
        return scores.measure_values(truth, decided)


class Token:
    """One tag a word; a word's first token carries it, the word's other tokens carry nothing."""

    name = "token"

    def label_names(self, table: tables.Table, given: Sequence[str]) -> tuple[str, ...]:
        """The tags of the data, two or more."""
        return tables.label_names(table, given)

    def truth(self, table: tables.Table, names: Sequence[str]) -> list[tuple[int, ...]]:
        """The class of every word of every row."""
        return tables.classes(table, names)

    def strata(self, truth: Sequence[tuple[int, ...]]) -> list[int]:
        """Nothing: sentences are drawn as they come."""
        return [0] * len(truth)

    def target(
        self, truth: tuple[int, ...], labels: int, picks: Sequence[int], tokens: int
    ) -> Target:
        """A class for the first token of each word, `IGNORED` for all others."""
        at = {pick: label for pick, label in zip(picks, truth, strict=True) if pick >= 0}
        return tuple(at.get(token, IGNORED) for token in range(tokens))

    def marks(self, truth: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The class of each word."""
        return [(label,) for label in truth]

    def decide(self, logits_nC: Floats, names: Sequence[str], rule: Rule) -> tuple[int, ...]:
        """The class of each word's highest logit; `NO_CLASS` for a word without a token (NaN)."""
        best_n = np.where(np.isnan(logits_nC[:, 0]), NO_CLASS, logits_nC.argmax(1))
        return tuple(best_n.tolist())

    def measure(
        self,
        truth: Sequence[tuple[int, ...]],
        decided: Sequence[tuple[int, ...]],
        names: Sequence[str],
    ) -> dict[str, float]:
        """Accuracy and, with tags in IOB2, F1, precision and recall of whole entities.

        A word without a token counts as a wrong `O`.
        """
        known = (*names, "")
        spelled = [[[known[label] for label in row] for row in side] for side in (truth, decided)]
        return scores.measure_tags(*spelled, iob2=scores.is_iob2(names))


BY_NAME: Final[Mapping[str, Problem[Any]]] = MappingProxyType(
    {each.name: each for each in (SingleLabel(), MultiLabel(), Regression(), Token())}
)


def probabilities(problem: str, logits_nC: Floats) -> NDArray[np.float64]:
    """Sigmoid of each logit for `multi_label`, else softmax of each row, as the daemon has it."""
    logits_nC = logits_nC.astype(np.float64)
    if problem == MultiLabel.name:
        decayed_nC = np.exp(-np.abs(logits_nC))
        odds_nC: NDArray[np.float64] = np.where(logits_nC >= 0, 1.0, decayed_nC)
        return odds_nC / (1.0 + decayed_nC)
    raised_nC = np.exp(logits_nC - logits_nC.max(axis=1, keepdims=True))
    return np.asarray(raised_nC / raised_nC.sum(axis=1, keepdims=True))


def pick(logits_TC: NDArray[np.float32], picks: Sequence[int]) -> NDArray[np.float32]:
    """The logits at these places; a row of NaN where there is none (a place below 0)."""
    chosen_nC = logits_TC[np.maximum(picks, 0)]
    chosen_nC[np.array(picks) < 0] = np.nan
    return chosen_nC


def firsts(
    words: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[bool],
) -> tuple[int, ...]:
    """The first token of each word of a text that is these words with a blank between them.

    `offsets` are the tokens' character spans, `special` marks those that stand for no text. A word
    whose tokens were cut off, or that never had one, gets `NO_CLASS`.
    """
    found: list[int] = []
    token = start = 0
    for word in words:
        end = start + len(word)
        while token < len(offsets) and (special[token] or offsets[token][1] <= start):
            token += 1
        inside = token < len(offsets) and offsets[token][0] < end
        found.append(token if inside else NO_CLASS)
        start = end + 1
    return tuple(found)
