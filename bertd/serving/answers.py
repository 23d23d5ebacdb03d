"""Logits to scores and decided labels, vectors to unit vectors. Pure.

Shapes: N inputs, L labels, D dimensions. Few numbers are plain floats: before it begins, an array
operation takes as long as a dozen of them.
"""

import difflib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bertd import errors

MULTI_LABEL_THRESHOLD = 0.5
NO_NORM = 1e-12
LONGEST_SHOWN_CHARS = 100
MOST_SHOWN_LABELS = 10
FEW = 16
# Among longer names the nearest one would cost milliseconds on the event loop.
SUGGEST_AMONG_CHARACTERS = 4096

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def matrix(parts: Sequence[Floats], *, columns: int, counts: Sequence[int]) -> Floats:
    """The parts of one call end to end, `counts` rows from each: [sum of counts, columns].

    Raises:
        errors.Bug: A worker answered in another shape or with something that is no number.
    """
    for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if part.size != count * columns:
            raise errors.Bug(
                f"result {index} must have {count} x {columns} values, and has {part.size}"
            )
    flat = parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])
    if not _are_finite(flat):
        raise errors.Bug("the worker answered with values that are not finite")
    return flat.reshape(-1, columns)


def scores(logits_NL: Floats, *, problem: str, temperature: float) -> list[list[float]]:
    """Probabilities, calibrated by the temperature: softmax or sigmoid of logits / temperature.

    Regression has no probabilities: its predictions are returned as they are. What computes a row
    depends on its own labels alone, so that no row's scores depend on its neighbours.
    """
    rows_NL: list[list[float]]
    if problem == "regression":
        rows_NL = logits_NL.tolist()
    elif problem != "token" and logits_NL.shape[1] <= FEW:
        score = _sigmoid if problem == "multi_label" else _softmax
        rows_NL = [score([x / temperature for x in row_L]) for row_L in logits_NL.tolist()]
    else:
        scores = _sigmoids if problem == "multi_label" else _softmaxes
        rows_NL = scores(np.divide(logits_NL, temperature, dtype=np.float64)).tolist()
    return rows_NL


def _softmaxes(scaled_NL: Doubles) -> Doubles:
    scaled_NL -= scaled_NL.max(axis=-1, keepdims=True)
    np.exp(scaled_NL, out=scaled_NL)
    scaled_NL /= scaled_NL.sum(axis=-1, keepdims=True)
    return scaled_NL


def _sigmoids(scaled_NL: Doubles) -> Doubles:
    """Never exp of a positive number, so nothing overflows."""
    decayed_NL = np.exp(-np.abs(scaled_NL))
    odds_NL: Doubles = np.where(scaled_NL >= 0, 1.0, decayed_NL) / (1.0 + decayed_NL)
    return odds_NL


def _softmax(scaled_L: Sequence[float]) -> list[float]:
    highest = max(scaled_L)
    odds_L = [math.exp(x - highest) for x in scaled_L]
    total = sum(odds_L)
    return [odds / total for odds in odds_L]


def _sigmoid(scaled_L: Sequence[float]) -> list[float]:
    decayed_L = [math.exp(-abs(x)) for x in scaled_L]
    return [
        (1.0 if x >= 0 else decayed) / (1.0 + decayed)
        for x, decayed in zip(scaled_L, decayed_L, strict=True)
    ]


def decide(
    scores_NL: Sequence[Sequence[float]],
    *,
    problem: str,
    label_names: Sequence[str],
    thresholds: Mapping[str, float],
) -> list[list[str]]:
    """The decided labels of each row, in label order. Lists: for few rows faster than arrays.

    Single-label and token: the best label, or none when it stays below its own threshold.
    Multi-label: every label at or above its threshold, `MULTI_LABEL_THRESHOLD` where none is
    declared. Regression decides nothing.
    """
    if problem == "regression":
        return [[] for _ in scores_NL]
    if problem == "multi_label":
        limits = [thresholds.get(name, MULTI_LABEL_THRESHOLD) for name in label_names]
        return [
            [
                name
                for name, score, limit in zip(label_names, row_L, limits, strict=True)
                if score >= limit
            ]
            for row_L in scores_NL
        ]
    return [_best(row_L, label_names, thresholds) for row_L in scores_NL]


def columns(label_names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Which columns a call wants returned, in label order; nothing named means all.

    Raises:
        errors.NotFound: A wanted label is none of these; the nearest ones are suggested.
    """
    if not wanted:
        return list(range(len(label_names)))
    known, chosen = set(label_names), set(wanted)
    for name in wanted:
        if name not in known:
            shown = name[:LONGEST_SHOWN_CHARS]
            raise errors.NotFound(f"no label '{shown}'", hint=_suggestion(shown, label_names))
    return [at for at, name in enumerate(label_names) if name in chosen]


def unit(vectors_ND: Floats) -> Floats:
    """The vectors scaled to length 1; a vector of zeros stays one."""
    norms_N1 = np.linalg.norm(vectors_ND, axis=-1, keepdims=True)
    scaled_ND: Floats = np.divide(vectors_ND, np.maximum(norms_N1, NO_NORM), dtype=np.float32)
    return scaled_ND


def _are_finite(flat: Floats) -> bool:
    if flat.size <= FEW:
        return math.isfinite(sum(flat.ravel().tolist()))  # of so few 32-bit numbers, never infinite
    return bool(np.isfinite(flat).all())


def _best(
    row_L: Sequence[float], label_names: Sequence[str], thresholds: Mapping[str, float]
) -> list[str]:
    score = max(row_L)
    name = label_names[row_L.index(score)]
    return [name] if score >= thresholds.get(name, 0.0) else []


def _suggestion(name: str, label_names: Sequence[str]) -> str:
    if sum(map(len, label_names)) <= SUGGEST_AMONG_CHARACTERS:
        near = difflib.get_close_matches(name, label_names, n=1)
        if near:
            return f"did you mean '{near[0]}'?"
    shown = ", ".join(f"'{each}'" for each in label_names[:MOST_SHOWN_LABELS])
    return f"the labels are {shown}{', ...' if len(label_names) > MOST_SHOWN_LABELS else ''}"
