"""What is recorded of a run, and what follows from it: medians, ratios, bars. Pure."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import names, rows

Row = Mapping[str, Any]
Result = dict[str, Any]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How much faster one engine is than another: median of paired rounds, 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A ratio of speeds that is aimed at."""

    engine: str
    against: str
    model: str
    workload: str
    least: float


BASE = "bert-base"
OWN = "bertd-int8-64-adapters"
BARS = (
    Bar(engine=OWN, against="openvino-int8", model=BASE, workload="cola32", least=1.5),
    Bar(engine=OWN, against="openvino-int8-padded", model=BASE, workload="mixed32", least=3.0),
    Bar(engine=OWN, against="openvino-int8", model=BASE, workload="mixed32", least=1.3),
    Bar(engine=OWN, against="openvino-int8", model=BASE, workload="uniform16x128", least=1.0),
    Bar(engine=OWN, against="onnxruntime-int8", model=BASE, workload="cola32", least=2.5),
    Bar(engine=OWN, against="openvino-int8", model=BASE, workload="single16", least=1.0),
    Bar(
        engine="bertd-bf16-64-adapters", against="openvino-bf16", model=BASE, workload="cola32",
        least=1.3,
    ),
    Bar(
        engine="bertd-bf16-64-adapters", against="openvino-bf16", model=BASE,
        workload="uniform16x128", least=0.9,
    ),
    Bar(engine=OWN, against="bertd-int8-1-adapters", model=BASE, workload="cola32", least=0.97),
    Bar(
        engine=OWN, against="bertd-int8-1-adapters", model=BASE, workload="uniform16x128",
        least=0.97,
    ),
)  # fmt: skip
LEAST_SHARE = (OWN, BASE, "uniform16x128", 0.75)  # of the peak


def row(
    *,
    place: Mapping[str, str],
    seconds: Mapping[int, Sequence[float]],
    tokens: Sequence[int],
    operations: Sequence[int],
    peak: float | None,
    accuracy: Mapping[str, Any] | None,
    **extra: Any,
) -> dict[str, Any]:
    """One row of the results.

    Args:
        place: names of the `model`, the `workload` and the `engine`.
        seconds: round -> seconds of each iteration in it.
        tokens: real tokens of each iteration, in that order.
        operations: operations of each iteration on real tokens.
        peak: operations per second of the machine in this precision, where known.
        accuracy: see `accuracy`.
        **extra: more columns.
    """
    flat = [each for found in seconds.values() for each in found]
    rates = [count / each for count, each in zip(operations, flat, strict=True)]
    rate = statistics.median(rates)
    return {
        **place,
        "median_seconds": statistics.median(flat),
        "min_seconds": min(flat),
        "real_tokens": statistics.median(tokens),
        "tokens_per_second": statistics.median(
            count / each for count, each in zip(tokens, flat, strict=True)
        ),
        "operations_per_second": rate,
        "share_of_peak": rate / peak if peak else None,
        "rounds": len(seconds),
        "accuracy": accuracy,
        **extra,
        "round_seconds": {str(n): [round(each, 7) for each in s] for n, s in seconds.items()},
    }


def accuracy(
    given: rows.Floats, expected: rows.Floats | None, against: str
) -> dict[str, Any] | None:
    """How far embeddings [B, D] are from those of the engine `against`."""
    if expected is None:
        return None
    off = np.abs(given - expected)
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (given * expected).sum(1) / lengths
    return {
        "against": against,
        "max_difference": float(off.max()),
        "mean_difference": float(off.mean()),
        "mean_cosine": float(cosines.mean()),
        "min_cosine": float(cosines.min()),
    }


def ratio(engine: Row, against: Row) -> Ratio:
    """How many times faster `engine` is, from the rounds that both took part in."""
    ours, theirs = engine["round_seconds"], against["round_seconds"]
    pairs = np.array(
        [
            theirs_s / ours_s
            for number in ours
            if number in theirs
            for ours_s, theirs_s in zip(ours[number], theirs[number], strict=True)
        ]
    )
    draws = np.random.default_rng(0).choice(pairs, (RESAMPLES, len(pairs)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return Ratio(median=float(np.median(pairs)), low=float(low), high=float(high))


def best_peer(block: Iterable[Row]) -> Row | None:
    """The fastest engine that is not bertd."""
    peers = [each for each in block if names.parse(each["engine"]).is_peer]
    return min(peers, key=lambda each: each["median_seconds"], default=None)


def blocks(result: Mapping[str, Any]) -> dict[tuple[str, str], list[Row]]:
    """Rows by (model, workload), in the order of the results."""
    found: dict[tuple[str, str], list[Row]] = {}
    for each in result["rows"]:
        found.setdefault((each["model"], each["workload"]), []).append(each)
    return found


def bars(result: Mapping[str, Any]) -> list[tuple[Bar, Ratio]]:
    """The bars whose two engines were measured, and what they reached."""
    found = {(r["model"], r["workload"], r["engine"]): r for r in result["rows"]}
    reached = []
    for bar in BARS:
        engine = found.get((bar.model, bar.workload, bar.engine))
        against = found.get((bar.model, bar.workload, bar.against))
        if engine and against:
            reached.append((bar, ratio(engine, against)))
    return reached


def put_block(result: Result, block: Sequence[Row], left_out: Sequence[Row]) -> Result:
    """The results with a block's rows in the place of those that were measured before."""
    fresh = {(each["model"], each["workload"]) for each in block}
    kept = [r for r in result["rows"] if (r["model"], r["workload"]) not in fresh]
    models = {each["model"] for each in block}
    others = [each for each in result["left_out"] if each["model"] not in models]
    return result | {"rows": [*kept, *block], "left_out": [*others, *left_out]}


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Writes results so that a run that is cut short leaves whole blocks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_suffix(".begun")
    begun.write_text(json.dumps(result, indent=1) + "\n")
    begun.replace(path)
