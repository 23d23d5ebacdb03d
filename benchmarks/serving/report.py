"""Results as a Markdown table and as plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks.adapters.report import table
from benchmarks.serving import contenders, loads, results

BARS = {  # of the summary: at least, or at most
    "share_of_engine_c64": (">=", 0.85),
    "share_of_engine_16_texts": (">=", 0.95),
    "vs_infinity_c64": (">=", 3.0),
    "vs_triton_c64": (">=", 2.5),
    "vs_one_at_a_time_c64": (">=", 4.0),
    "goodput_share_at_2x": (">=", 0.95),
    "refusal_p99_ms": ("<=", 10.0),
    "accepted_p99_ms_at_2x": ("<=", 1000 * loads.DEADLINES_S[results.MODEL]),
    "p50_above_engine_ms_c1": ("<=", 1.5),
    "recovery_s": ("<=", 2.0),
}
COLOURS = {
    "bertd": "#08519c",
    "infinity-onnx-embed": "#a63603",
    "infinity-torch-classify": "#fdae6b",
    "triton": "#41ab5d",
    "triton-sorted": "#a1d99b",
    "batch-inference": "#756bb1",
    "mosec": "#cb181d",
    "mosec-sorted": "#fc9272",
    "litserve": "#8c6d31",
    "fastapi-torch": "#252525",
    "fastapi-onnx": "#969696",
}


def write(path: Path, result: Mapping[str, Any]) -> list[Path]:
    """Writes the tables and the plots of a model each, beside the results at `path`."""
    text = path.with_suffix(".md")
    text.write_text(markdown(result))
    written = [text]
    for model in _models(result):
        if any(row["model"] == model and row["load"] == results.C64 for row in result["rows"]):
            suffix = ".svg" if model == results.MODEL else f".{model}.svg"
            plot(path.with_suffix(suffix), result, model)
            written.append(path.with_suffix(suffix))
    return written


def markdown(result: Mapping[str, Any]) -> str:
    """All tables, headed by what they were measured with."""
    lines = [*_head(result), "", "## Bars", "", *_bars(result["summary"])]
    for model in _models(result):
        blocks = {
            "closed loop": _closed(result, model),
            "many texts in a call": _many(result, model),
            "open loop": _open(result, model),
            "overload and after": _overload(result, model),
            "seconds until all of so many simultaneous calls are answered": _bursts(result, model),
        }
        for title, block in blocks.items():
            if block:
                lines += ["", f"## {model}, {title}", "", *block]
    if result["left_out"]:
        lines += ["", "## Left out", ""]
        lines += [
            f"- {each['contender']} on {each['model']}: {each['reason']}"
            for each in result["left_out"]
        ]
    return "\n".join([*lines, ""])


def _models(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in result["rows"]))


def _head(result: Mapping[str, Any]) -> list[str]:
    machine = result["machine"]
    versions = "; ".join(
        f"{name}: " + ", ".join(f"{package} {version}" for package, version in found.items())
        for name, found in result["versions"].items()
    )
    return [
        f"# Servers, {result['date']}",
        "",
        f"`{result['command']}`",
        "",
        f"{machine['cpu']} ({', '.join(machine['features'])}): one core for the server and all of "
        "its processes, one thread that computes; another core for the load generator. "
        f"{versions}.",
        "",
        "All serve the same fine-tuned model in int8 and are asked the same texts, as long as "
        "CoLA's sentences. Servers take turns, and are stopped between them; figures are medians "
        "of the turns. Latency counts from the moment when a call was due. `-sorted`: rows are "
        "gathered and sorted by length within the model's code, which the server does not do by "
        "itself. `engine`: bertd's engine alone, from token ids, in batches of 32 rows (one row "
        "beside a single caller).",
    ]


def _bars(summary: Mapping[str, float | None]) -> list[str]:
    cells = []
    for name, (sign, bar) in BARS.items():
        value = summary.get(name)
        met = value is not None and (value >= bar if sign == ">=" else value <= bar)
        word = "not measured" if value is None else "met" if met else "missed"
        cells.append([f"`{name}`", f"{sign} {bar:g}", _number(value), word])
    return table(("what", "bar", "reached", ""), cells)


def _rows(result: Mapping[str, Any], model: str, load: str) -> dict[str, results.Row]:
    return {
        row["contender"]: row
        for row in result["rows"]
        if row["model"] == model and row["load"] == load
    }


def _closed(result: Mapping[str, Any], model: str) -> list[str]:
    blocks = {size: _rows(result, model, f"closed-{size}") for size in loads.CLOSED}
    blocks = {size: block for size, block in blocks.items() if block}
    if not blocks:
        return []
    names = _order(name for block in blocks.values() for name in block)
    titles = ["contender", *(f"{size} callers: texts/s (p50, p99 ms)" for size in blocks)]
    cells = [
        [_bold(name), *(_speed(block.get(name)) for block in blocks.values())] for name in names
    ]
    wide = next((blocks[size] for size in (64, *reversed(blocks)) if size in blocks), {})
    costs = [
        [
            _bold(name),
            _number(results.ratio(wide.get(contenders.BERTD), row)),
            _number(row.get("front_cpu_ms")),
            _number(row.get("server_cpu_ms")),
            _number(row.get("generator_share")),
        ]
        for name in names
        if (row := wide.get(name))
    ]
    return [
        *table(titles, cells),
        "",
        f"With {next(size for size in blocks if blocks[size] is wide)} callers:",
        "",
        *table(
            (
                "contender", "bertd is faster by", "first process, ms a text",
                "all processes, ms a text", "generator's core in use",
            ),
            costs,
        ),
    ]  # fmt: skip


def _many(result: Mapping[str, Any], model: str) -> list[str]:
    block = _rows(result, model, results.MANY)
    cells = [[_bold(name), _speed(block[name])] for name in _order(block)]
    title = f"{loads.MANY_CALLERS} callers, {loads.MANY} texts a call: texts/s (p50, p99 ms)"
    return table(("contender", title), cells) if cells else []


def _open(result: Mapping[str, Any], model: str) -> list[str]:
    cells = []
    for size in loads.OPEN:
        block = _rows(result, model, f"open-{size:g}x")
        for name in _order(block):
            row = block[name]
            figures = (
                "offered_per_s", "goodput_per_s", "accepted_p50_ms", "accepted_p99_ms",
                "refused", "refused_p99_ms", "expired", "failed", "sent_late_p99_ms",
            )  # fmt: skip
            cells.append([_bold(name), f"{size:g}", *(_number(row[each]) for each in figures)])
    titles = (
        "contender", "times its peak", "offered/s", "answered in time/s", "p50 ms", "p99 ms",
        "refused", "p99 of refusals, ms", "expired", "failed", "generator late, p99 ms",
    )  # fmt: skip
    deadline = f"Deadline {loads.DEADLINES_S[model]:g} s; latencies of all that was not refused."
    return [deadline, "", *table(titles, cells)] if cells else []


def _overload(result: Mapping[str, Any], model: str) -> list[str]:
    row = results.find(result, model, results.OVERLOAD, contenders.BERTD)
    if row is None:
        return []
    names = (
        "offered_per_s", "goodput_per_s", "accepted_p50_ms", "accepted_p99_ms", "refused",
        "refused_p50_ms", "refused_p99_ms", "expired", "failed", "baseline_p50_ms", "recovery_s",
    )  # fmt: skip
    return table(("bertd at twice its peak", ""), [[f"`{n}`", _number(row[n])] for n in names])


def _bursts(result: Mapping[str, Any], model: str) -> list[str]:
    blocks = {size: _rows(result, model, f"burst-{size}") for size in loads.BURSTS}
    names = _order(name for block in blocks.values() for name in block)
    cells = [
        [_bold(name), *(_number(block.get(name, {}).get("seconds")) for block in blocks.values())]
        for name in names
    ]
    return table(("contender", *(str(size) for size in blocks)), cells) if cells else []


def _speed(row: results.Row | None) -> str:
    if row is None:
        return ""
    return f"{row['texts_per_s']:,.1f} ({_number(row['p50_ms'])}, {_number(row['p99_ms'])})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bold(name: str) -> str:
    return f"**{name}**" if name == contenders.BERTD else name


def _order(names: Any) -> list[str]:
    known = [*contenders.NAMES, contenders.ENGINE]
    return sorted(set(names), key=known.index)


def plot(path: Path, result: Mapping[str, Any], model: str) -> None:
    """Throughput of everybody with 64 callers; goodput over offered load."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.4, 4.2), layout="constrained")
    block = _rows(result, model, results.C64)
    names = _order(block)
    left.barh(
        names, [block[name]["texts_per_s"] for name in names],
        color=[COLOURS.get(name, "#cccccc") for name in names],
    )  # fmt: skip
    left.invert_yaxis()
    left.set(xlabel="texts/s, 64 callers", title=f"{model}, one core")
    for name, colour in COLOURS.items():
        offered, good = _goodput(result, model, name)
        if offered:
            right.plot(offered, good, color=colour, marker="o", markersize=3, label=name)
    right.axline((0, 0), slope=1, color="grey", linewidth=1, linestyle="--")
    right.set(xlabel="offered calls/s", ylabel="answered in time/s")
    right.set(xlim=(0, None), ylim=(0, None))
    right.set_title(f"Poisson arrivals, deadline {loads.DEADLINES_S[model]:g} s")
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize="x-small")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _goodput(
    result: Mapping[str, Any], model: str, name: str
) -> tuple[Sequence[float], Sequence[float]]:
    rows = [results.find(result, model, f"open-{size:g}x", name) for size in loads.OPEN]
    points = sorted((row["offered_per_s"], row["goodput_per_s"]) for row in rows if row)
    return [x for x, _ in points], [y for _, y in points]
