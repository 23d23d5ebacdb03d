"""What is recorded of a run, and the summary that follows from it. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.serving import contenders, loads

Row = Mapping[str, Any]
Result = dict[str, Any]
MODEL = "bert-base"  # which the summary is of
C1, C64, MANY, OVERLOAD = "closed-1", "closed-64", "closed-8x16", "overload-2x"


def put(result: Result, rows: Sequence[Row], left_out: Sequence[Row]) -> Result:
    """The result with a block's rows in the place of those that were measured before."""

    def key(row: Row) -> tuple[str, ...]:
        return row["model"], row["load"], row["contender"]

    fresh = {key(row) for row in rows}
    kept = [row for row in result["rows"] if key(row) not in fresh]
    others = [each for each in result["left_out"] if each not in left_out]
    found = result | {"rows": [*kept, *rows], "left_out": [*others, *left_out]}
    return found | {"summary": summary(found)}


def find(result: Mapping[str, Any], model: str, load: str, contender: str) -> Row | None:
    """A row, if it was measured."""
    for row in result["rows"]:
        if (row["model"], row["load"], row["contender"]) == (model, load, contender):
            return dict(row)
    return None


def peak(result: Mapping[str, Any], model: str, contender: str) -> float:
    """The most texts per second in any closed loop of one text a call; 0 if none was measured."""
    rows = (find(result, model, f"closed-{size}", contender) for size in loads.CLOSED)
    return max((row["texts_per_s"] for row in rows if row), default=0.0)


def ratio(ours: Row | None, theirs: Row | None, figure: str = "texts_per_s") -> float | None:
    """Median over the rounds that both have of one's figure over the other's."""
    pairs = _pairs(ours, theirs, figure)
    return statistics.median(one / other for one, other in pairs) if pairs else None


def _pairs(ours: Row | None, theirs: Row | None, figure: str) -> list[tuple[float, float]]:
    if ours is None or theirs is None:
        return []
    one, other = ours["rounds"], theirs["rounds"]
    pairs = [(one[n].get(figure), other[n].get(figure)) for n in one if n in other]
    return [(a, b) for a, b in pairs if a is not None and b]


def fastest(result: Mapping[str, Any], model: str, load: str, family: str) -> Row | None:
    """The best of a family of contenders."""
    rows = (find(result, model, load, name) for name in contenders.FAMILIES[family])
    return max((row for row in rows if row), key=lambda row: row["texts_per_s"], default=None)


def summary(result: Mapping[str, Any]) -> dict[str, float | None]:
    """What the bars are about, of BERT-base in int8; None where it was not measured."""

    def own(load: str) -> Row | None:
        return find(result, MODEL, load, contenders.BERTD)

    def engine(load: str) -> Row | None:
        return find(result, MODEL, load, contenders.ENGINE)

    def against(family: str) -> float | None:
        return ratio(own(C64), fastest(result, MODEL, C64, family))

    over = own(OVERLOAD) or {}
    most = peak(result, MODEL, contenders.BERTD)
    goodput = over.get("goodput_per_s")
    above = [one - other for one, other in _pairs(own(C1), engine(C1), "p50_ms")]
    return {
        "share_of_engine_c64": ratio(own(C64), engine(C64)),
        "share_of_engine_16_texts": ratio(own(MANY), engine(MANY)),
        "vs_infinity_c64": against("infinity"),
        "vs_triton_c64": against("triton"),
        "vs_one_at_a_time_c64": against("one_at_a_time"),
        "goodput_share_at_2x": goodput / most if goodput is not None and most else None,
        "refusal_p99_ms": over.get("refused_p99_ms"),
        "accepted_p99_ms_at_2x": over.get("accepted_p99_ms"),
        "p50_above_engine_ms_c1": statistics.median(above) if above else None,
        "recovery_s": over.get("recovery_s"),
    }
