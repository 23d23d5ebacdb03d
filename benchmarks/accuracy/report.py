"""What was measured, as JSON and as Markdown, and whether it reaches the bars."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import measuring
from benchmarks.adapters.report import table
from benchmarks.engine import machine
from bertd.bitfit import agreement

# int8 against fp32
POOLED_SHARE = 0.995
SURE_SHARE = 0.99
METRIC_POINTS = 0.5
COUNTS = ("decisions", "equal", "sure", "sure_equal", "logits", "total_drift", "max_drift")

Record = Mapping[str, Any]


def hardware(threads: int) -> dict[str, Any]:
    """What the numbers were measured with."""
    return {"cpu": machine.cpu(), "threads": threads, "torch": torch.__version__}


def pooled(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The adapters of each base as one set of decisions, per precision."""
    found = []
    for base, precision in dict.fromkeys((r["base"], r["precision"]) for r in records):
        parts = [
            agreement.Agreement(**{name: record["agreement"][name] for name in COUNTS})
            for record in records
            if (record["base"], record["precision"]) == (base, precision)
        ]
        shares = measuring.shares(agreement.pooled(parts))
        found.append({"base": base, "precision": precision, "tasks": len(parts), **shares})
    return found


def bars(result: Record) -> list[dict[str, Any]]:
    """What the project promises, and what was found."""
    found = [
        _bar(
            f"{pool['base']} {pool['precision']}: decided alike, pooled",
            pool["share"],
            POOLED_SHARE,
        )
        for pool in result["pooled"]
    ]
    for record in result["tasks"]:
        name = f"{record['task']} {record['precision']}"
        found.append(
            _bar(f"{name}: decided alike where sure", record["agreement"]["sure_share"], SURE_SHARE)
        )
        found.append(
            _bar(
                f"{name}: {record['metric']}, points lost or won",
                points(record),
                METRIC_POINTS,
                most=True,
            )
        )
    return found


def points(record: Record) -> float:
    """How far the task's own metric moved, in hundredths, up or down."""
    before, after = (record[side]["metrics"][record["metric"]] for side in ("before", "after"))
    return abs(after - before) * 100


def write(folder: Path, name: str, result: Record) -> list[Path]:
    """Writes `name`.json and `name`.md; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    paths[1].write_text(markdown(result))
    return paths


def markdown(result: Record) -> str:
    """The tables, headed by what they were measured with."""
    lines = [
        f"# What a precision costs, {result['date']}",
        "",
        f"`{result['command']}`",
        f"{result['cpu']}, {result['threads']} thread(s), torch {result['torch']}.",
        f"Each precision against {result['against']}: the adapters of the quick start on "
        "MiniLM-L6, each on its set's evaluation split, and bert-base-NER on the test split of "
        "WNUT17, whose types are put into the words of CoNLL-2003 "
        "(see `benchmarks/accuracy/tasks.py`).",
        f"Sure: the two best probabilities are more than {agreement.SURE_MARGIN} apart before.",
        "",
        *table(
            ("task", "precision", "decisions", "alike", "where sure", "mean drift", "max drift"),
            [_agreement_row(r["task"], r) for r in result["tasks"]]
            + [_pool_row(pool) for pool in result["pooled"] if pool["tasks"] > 1],
        ),
        "",
        "Drift is that of logits. The metrics of each task, before -> after:",
        "",
        *table(
            ("task", "precision", "rows", "accuracy", "Matthews", "F1"),
            [_metric_row(record) for record in result["tasks"]],
        ),
        "",
        "Speed and size, side by side in one process; a lone row is a call with one text:",
        "",
        *table(
            ("task", "precision", "ms for a lone row", "rows/s", "MiB of weights"),
            [_speed_row(record) for record in result["tasks"]],
        ),
        "",
        "Sentence vectors of the bases themselves:",
        "",
        *table(
            ("base", "precision", "texts", "mean cosine", "lowest cosine", "max drift"),
            [_base_row(record) for record in result["bases"]],
        ),
        "",
        *table(("bar", "found", "wanted", ""), [_bar_row(bar) for bar in result["bars"]]),
        "",
        *(f"Not measured: {what}." for what in result["missing"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _bar(name: str, found: float, wanted: float, *, most: bool = False) -> dict[str, Any]:
    met = found <= wanted if most else found >= wanted
    return {"name": name, "found": found, "wanted": wanted, "at_most": most, "met": met}


def _bar_row(bar: Record) -> list[str]:
    form = "{:.2f}" if bar["at_most"] else "{:.2%}"
    wanted = ("<= " if bar["at_most"] else ">= ") + form.format(bar["wanted"])
    return [bar["name"], form.format(bar["found"]), wanted, "met" if bar["met"] else "**missed**"]


def _agreement_row(name: str, record: Record) -> list[str]:
    alike = record["agreement"]
    return [
        name,
        record["precision"],
        f"{alike['decisions']:,}",
        f"{alike['share']:.2%}",
        f"{alike['sure_share']:.2%} of {alike['sure']:,}",
        f"{alike['mean_drift']:.4f}",
        f"{alike['max_drift']:.3f}",
    ]


def _pool_row(pool: Record) -> list[str]:
    name = f"all {pool['tasks']} on {pool['base']}"
    return _agreement_row(name, {"precision": pool["precision"], "agreement": pool})


def _metric_row(record: Record) -> list[str]:
    before, after = record["before"]["metrics"], record["after"]["metrics"]
    cells = [
        f"{before[name]:.4f} -> {after[name]:.4f}" if name in before else "-"
        for name in ("accuracy", "matthews", "f1")
    ]
    return [record["task"], record["precision"], f"{record['rows']:,}", *cells]


def _speed_row(record: Record) -> list[str]:
    before, after = record["before"], record["after"]
    return [
        record["task"],
        record["precision"],
        f"{before['lone_row_s'] * 1e3:.2f} -> {after['lone_row_s'] * 1e3:.2f}",
        f"{before['rows_per_s']:.0f} -> {after['rows_per_s']:.0f}",
        f"{before['weight_bytes'] / 2**20:.1f} -> {after['weight_bytes'] / 2**20:.1f}",
    ]


def _base_row(record: Record) -> list[str]:
    return [
        record["base"],
        record["precision"],
        str(record["texts"]),
        f"{record['mean_cosine']:.5f}",
        f"{record['min_cosine']:.5f}",
        f"{record['max_drift']:.4f}",
    ]
