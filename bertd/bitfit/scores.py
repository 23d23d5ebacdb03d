"""How good answers are, as pure functions: one family of metrics for each kind of problem.

    measure          one class a row       accuracy, F1, Matthews correlation
    measure_sets     any labels a row      micro F1, macro F1, share of rows that are all right
    measure_values   one number a row      Pearson, Spearman, mean absolute error
    measure_tags     one tag a word        F1, precision and recall of whole entities, accuracy

Where a formula would divide by zero its value is 0, as its authors and every common library have
it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

# What may pick the best epoch, the usual one first, by problem.
METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1", "matthews"),
    "multi_label": ("f1", "macro_f1", "accuracy"),
    "regression": ("pearson", "spearman", "mae"),
    "token": ("f1", "accuracy"),
}
LOWER_IS_BETTER = frozenset({"mae"})

Entity = tuple[int, int, str]


def accuracy(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """The share of rows whose class is right, in [0, 1]."""
    _check(truth, predicted)
    return sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth)


def f1(truth: Sequence[int], predicted: Sequence[int], classes: int) -> float:
    """F1 of class 1 where there are two classes, else the unweighted mean over all of them."""
    _check(truth, predicted)
    if classes == 2:
        return f1_of(truth, predicted, 1)
    return sum(f1_of(truth, predicted, c) for c in range(classes)) / classes


def f1_of(truth: Sequence[int], predicted: Sequence[int], label: int) -> float:
    """2 TP / (2 TP + FP + FN) of one class."""
    pairs = list(zip(truth, predicted, strict=True))
    hits = sum(t == label == p for t, p in pairs)
    misses = sum((t == label) != (p == label) for t, p in pairs)
    return _f1(hits, misses)


def matthews(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """Matthews correlation of any number of classes, in [-1, 1]; 0 where a side is constant.

    The multi-class form of Gorodkin (2004), "Comparing two K-category assignments by a K-category
    correlation coefficient"; with two classes it is Matthews' own (1975). Computed from whole
    numbers, so it is exact up to one rounding.
    """
    _check(truth, predicted)
    rows = len(truth)
    right = sum(t == p for t, p in zip(truth, predicted, strict=True))
    classes = set(truth) | set(predicted)
    true = {c: sum(t == c for t in truth) for c in classes}
    said = {c: sum(p == c for p in predicted) for c in classes}
    covariance = right * rows - sum(true[c] * said[c] for c in classes)
    spread_true = rows * rows - sum(n * n for n in true.values())
    spread_said = rows * rows - sum(n * n for n in said.values())
    if not spread_true or not spread_said:
        return 0.0
    return covariance / math.sqrt(spread_true * spread_said)


def measure(truth: Sequence[int], predicted: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy, F1 and Matthews correlation of one class a row."""
    return {
        "accuracy": accuracy(truth, predicted),
        "f1": f1(truth, predicted, classes),
        "matthews": matthews(truth, predicted),
    }


def measure_sets(
    truth: Sequence[AbstractSet[int]], predicted: Sequence[AbstractSet[int]], labels: int
) -> dict[str, float]:
    """`f1` over all decisions (micro), `macro_f1` the mean over labels, `accuracy` of whole rows.

    A label that occurs on neither side has F1 0, as everywhere here.
    """
    _check(truth, predicted)
    hits, misses = [0] * labels, [0] * labels
    for wanted, said in zip(truth, predicted, strict=True):
        for label in wanted & said:
            hits[label] += 1
        for label in wanted ^ said:
            misses[label] += 1
    each = [_f1(hit, missed) for hit, missed in zip(hits, misses, strict=True)]
    return {
        "f1": _f1(sum(hits), sum(misses)),
        "macro_f1": sum(each) / labels,
        "accuracy": sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth),
    }


def measure_values(truth: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation, 0 where a side is constant, and mean absolute error.

    Predictions that are no numbers correlate with nothing and are infinitely wrong.
    """
    _check(truth, predicted)
    if not all(map(math.isfinite, predicted)):
        return {"pearson": 0.0, "spearman": 0.0, "mae": math.inf}
    distances = (abs(t - p) for t, p in zip(truth, predicted, strict=True))
    return {
        "pearson": _correlation(truth, predicted),
        "spearman": _correlation(_ranks(truth), _ranks(predicted)),
        "mae": math.fsum(distances) / len(truth),
    }


def measure_tags(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, iob2: bool
) -> dict[str, float]:
    """`accuracy` over words and, where tags are IOB2, F1, precision and recall of entities.

    An entity is right when its words and its type are (Tjong Kim Sang & De Meulder 2003).
    """
    _check(truth, predicted)
    pairs = [
        (t, p)
        for wanted, said in zip(truth, predicted, strict=True)
        for t, p in zip(wanted, said, strict=True)
    ]
    right = {"accuracy": sum(t == p for t, p in pairs) / len(pairs)}
    if not iob2:
        return right
    wanted_n = said_n = hits = 0
    for wanted, said in zip(truth, predicted, strict=True):
        wanted_entities, said_entities = entities(wanted), entities(said)
        wanted_n += len(wanted_entities)
        said_n += len(said_entities)
        hits += len(wanted_entities & said_entities)
    return {
        "f1": _f1(hits, wanted_n + said_n - 2 * hits),
        "precision": hits / said_n if said_n else 0.0,
        "recall": hits / wanted_n if wanted_n else 0.0,
        **right,
    }


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities (first word, word after the last, type) of a sentence tagged in IOB2.

    `B-type` begins an entity and `I-type` goes on with it; an `I-type` that goes on with nothing
    begins one, as in the CoNLL shared tasks' own script.
    """
    found: set[Entity] = set()
    start, inside = 0, None
    for at, tag in enumerate((*tags, "O")):
        mark, _, kind = tag.partition("-")
        if inside is not None and (mark != "I" or kind != inside):
            found.add((start, at, inside))
            inside = None
        if mark in ("B", "I") and inside is None:
            start, inside = at, kind
    return found


def is_iob2(tags: Iterable[str]) -> bool:
    """Whether every one of these tags is `O`, `B-...` or `I-...`."""
    return all(tag == "O" or tag.partition("-")[0] in ("B", "I") for tag in tags)


def _f1(hits: int, misses: int) -> float:
    return 2 * hits / (2 * hits + misses) if hits else 0.0


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    mean_one, mean_other = math.fsum(one) / len(one), math.fsum(other) / len(other)
    apart = [(a - mean_one, b - mean_other) for a, b in zip(one, other, strict=True)]
    spread_one = math.fsum(a * a for a, _ in apart)
    spread_other = math.fsum(b * b for _, b in apart)
    if not spread_one or not spread_other:
        return 0.0
    return math.fsum(a * b for a, b in apart) / math.sqrt(spread_one * spread_other)


def _ranks(values: Sequence[float]) -> list[float]:
    """Places in ascending order, from 1; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for place in order[start:stop]:
            ranks[place] = (start + 1 + stop) / 2
        start = stop
    return ranks


def _check(truth: Sequence[object], predicted: Sequence[object]) -> None:
    if not truth or len(truth) != len(predicted):
        raise ValueError(f"needs one prediction per row: {len(truth)} rows, {len(predicted)} given")
