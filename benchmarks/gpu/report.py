"""Rows of results, and the table that people read."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu import timing

BARS = {  # BERT-base on one H200
    "bf16, 128 tokens": "at least 25,000 sequences/s",
    "one row of 16 tokens": "at most 0.7 ms",
    "64 or 10,000 adapters": "at most 3 % slower than one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One engine on one workload; `share_of_peak` counts operations on real tokens."""

    model: str
    workload: str
    engine: str
    median_seconds: float
    min_seconds: float
    p99_seconds: float
    real_tokens: int
    sequences_per_second: float
    share_of_peak: float | None


def row(
    engine: str,
    workload: timing.Workload,
    times: Sequence[float],
    *,
    operations: float,
    peak: float | None,
) -> Row:
    """A row from the seconds of single batches; `operations` are those of one batch."""
    median = statistics.median(times)
    return Row(
        model="bert-base",
        workload=workload.name,
        engine=engine,
        median_seconds=median,
        min_seconds=min(times),
        p99_seconds=sorted(times)[int(0.99 * (len(times) - 1))],
        real_tokens=workload.tokens,
        sequences_per_second=workload.rows / median,
        share_of_peak=operations / median / peak if peak else None,
    )


def write(path: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """The results as JSON, and beside them as Markdown."""
    found = {**facts, "rows": [asdict(each) for each in rows]}
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(facts, rows))


def markdown(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """One table for all workloads, a line for each engine."""
    peaks = ", ".join(f"{name} {rate / 1e12:.0f} T/s" for name, rate in facts["peak"].items())
    lines = [
        f"# BERT-base on {facts['machine']['gpu']}, {facts['date']}",
        "",
        f"torch {facts['versions']['torch']}, measured matrix peak: {peaks}. Medians; every batch "
        "is fresh, engines take turns.",
        "",
        "| workload | engine | ms a batch | p99 | sequences/s | tokens/s | share of peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        share = "" if each.share_of_peak is None else f"{each.share_of_peak:.0%}"
        tokens = each.real_tokens / each.median_seconds
        lines.append(
            f"| {each.workload} | {each.engine} | {1000 * each.median_seconds:.3f} "
            f"| {1000 * each.p99_seconds:.3f} | {each.sequences_per_second:,.0f} "
            f"| {tokens:,.0f} | {share} |"
        )
    bars = [f"- {what}: {bar}" for what, bar in BARS.items()]
    return "\n".join([*lines, "", "Bars, for an H200:", "", *bars, ""])
