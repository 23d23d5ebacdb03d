"""What was measured, as JSON, as a Markdown table and as a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot


def write(folder: Path, name: str, result: Mapping[str, Any]) -> list[Path]:
    """Writes `name`.json, `name`.md and `name`.svg; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("json", "md", "svg")]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    paths[1].write_text(markdown(result))
    plot(paths[2], result["curve"], f"{result['base']} {result['precision']}")
    return paths


def markdown(result: Mapping[str, Any]) -> str:
    """The tables, headed by what they were measured with."""
    memory = result["memory"]
    lines = [
        f"# Adapters on {result['base']}, {result['precision']}, {result['date']}",
        "",
        f"`{result['command']}`",
        f"{result['cpu']}, {result['threads']} thread(s), torch {result['torch']}; the engine "
        "alone, contenders interleaved, a fresh batch every round.",
        "Speed is rows per second against one adapter in the same round: median, 95 % interval.",
        "",
        *table(
            ("workload", "adapters drawn from", "rows/s", "speed against one", "95 % interval"),
            [_curve_row(record) for record in result["curve"]],
        ),
        "",
        "A batch of 32 CoLA-length rows against transformers, fp32, padded (B11):",
        "",
        *table(
            ("contender", "p50 ms", "time against transformers", "95 % interval"),
            [_ratio_row(record) for record in result["ratio"]],
        ),
        "",
        f"Memory, {memory['adapters']} adapters: {memory['resident_bytes']:,.0f} bytes resident "
        f"each, of which the table takes {memory['table_bytes']:,} and the head "
        f"{memory['head_bytes']:,}.",
        f"Folding took {memory['fold_ms']:.2f} ms each, in groups.",
        "",
    ]
    return "\n".join(lines)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, line by line."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def plot(path: Path, curve: Sequence[Mapping[str, Any]], title: str) -> None:
    """Speed against one adapter over the number of adapters, with intervals."""
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for workload in dict.fromkeys(record["workload"] for record in curve):
        records = [record for record in curve if record["workload"] == workload]
        ratios = [record["speed_against_one"] for record in records]
        medians = [ratio["median"] for ratio in ratios]
        below = [ratio["median"] - ratio["low"] for ratio in ratios]
        above = [ratio["high"] - ratio["median"] for ratio in ratios]
        counts = [record["adapters"] for record in records]
        axes.errorbar(counts, medians, yerr=(below, above), marker="o", capsize=3, label=workload)
    axes.axhline(0.97, color="grey", linestyle="--", linewidth=1, label="3 % slower")
    axes.set(
        xscale="log", ylim=(0.8, 1.1), xlabel="adapters that rows are drawn from",
        ylabel="speed against one adapter", title=title,
    )  # fmt: skip
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _curve_row(record: Mapping[str, Any]) -> list[str]:
    ratio = record["speed_against_one"]
    return [
        record["workload"],
        f"{record['adapters']:,}",
        f"{record['rows_per_s']:,.1f}",
        f"{ratio['median']:.3f}",
        f"{ratio['low']:.3f} - {ratio['high']:.3f}",
    ]


def _ratio_row(record: Mapping[str, Any]) -> list[str]:
    ratio = record["time_against_transformers"]
    return [
        record["contender"],
        f"{record['p50_ms']:.1f}",
        f"{ratio['median']:.3f}",
        f"{ratio['low']:.3f} - {ratio['high']:.3f}",
    ]
