"""Results as a Markdown table and as a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks.adapters.report import table
from benchmarks.engine import names, results

UNIT = "openvino-int8"  # whose speed is 1 in the summary and the plot
PLOTTED = {
    "bertd-int8-64-adapters": "#08519c",
    "bertd-bf16-64-adapters": "#6baed6",
    "openvino-int8": "#a63603",
    "openvino-bf16": "#fdae6b",
    "onnxruntime-int8": "#41ab5d",
    "ctranslate2-int8": "#a1d99b",
    "torchao-dynamic-int8": "#756bb1",
    "transformers-bf16": "#969696",
    "transformers-fp32": "#252525",
}


def write(path: Path, result: Mapping[str, Any]) -> list[Path]:
    """Writes the table and the plots of a model each, beside the results at `path`."""
    text = path.with_suffix(".md")
    text.write_text(markdown(result))
    written = [text]
    models = list(dict.fromkeys(model for model, _ in results.blocks(result)))
    for model in models:
        suffix = ".svg" if model == models[0] else f".{model}.svg"
        plot(path.with_suffix(suffix), result, model)
        written.append(path.with_suffix(suffix))
    return written


def markdown(result: Mapping[str, Any]) -> str:
    """All tables, headed by what they were measured with."""
    lines = [*_head(result), "", "## Bars", "", *_bars(result)]
    models = list(dict.fromkeys(model for model, _ in results.blocks(result)))
    for model in models:
        lines += ["", f"## {model}", "", *_summary(result, model)]
        for (of, workload), block in results.blocks(result).items():
            if of == model:
                lines += ["", f"### {model}, {workload}", "", *_block(block)]
    if result["left_out"]:
        lines += ["", "## Left out", "", *_left_out(result["left_out"])]
    return "\n".join([*lines, ""])


def _head(result: Mapping[str, Any]) -> list[str]:
    machine = result["machine"]
    peaks = ", ".join(
        f"{precision} {rate / 1e9:,.0f} Gop/s"
        for precision, rate in machine["peak_operations_per_second"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        f"# Engines, {result['date']}",
        "",
        f"`{result['command']}`",
        "",
        f"{machine['cpu']} ({', '.join(machine['features'])}), {machine['threads']} threads of "
        f"{machine['cores']} cores for everybody; {versions}.",
        f"Peak of matrix products: {peaks}.",
        "",
        "Every engine in a process of its own, stopped between its turns; in every round all run "
        "the same fresh batches, in an order drawn anew. Times are of a whole batch from ragged "
        "token ids to pooled embeddings; `-64-adapters`: every row has another adapter. Ratios "
        "are medians of paired rounds with their 95 % interval. Share of peak counts operations "
        "on real tokens alone. Differences are of embeddings, against transformers in fp32 (with "
        "adapters: against bertd in fp32 with the same ones).",
    ]


def _bars(result: Mapping[str, Any]) -> list[str]:
    cells = [
        [
            f"{bar.model}, {bar.workload}",
            f"{bar.engine} / {bar.against}",
            f"≥ {bar.least:g}",
            f"{found.median:.2f} ({found.low:.2f} - {found.high:.2f})",
            "met" if found.median >= bar.least else f"missed by {1 - found.median / bar.least:.0%}",
        ]
        for bar, found in results.bars(result)
    ]
    engine, model, workload, least = results.LEAST_SHARE
    for row in result["rows"]:
        share = row["share_of_peak"]
        if (row["engine"], row["model"], row["workload"]) == (engine, model, workload) and share:
            word = "met" if share >= least else f"missed by {1 - share / least:.0%}"
            cells.append(
                [f"{model}, {workload}", f"{engine} / peak", f"≥ {least}", f"{share:.2f}", word]
            )
    return table(("where", "ratio of speeds", "bar", "reached", ""), cells)


def _summary(result: Mapping[str, Any], model: str) -> list[str]:
    """Speed relative to `UNIT` by engine and workload."""
    own = {
        workload: block for (of, workload), block in results.blocks(result).items() if of == model
    }
    engines = list(dict.fromkeys(row["engine"] for block in own.values() for row in block))
    cells = [
        [engine, *(_relative(block, engine, "{:.2f}") for block in own.values())]
        for engine in engines
    ]
    return [f"Speed, {UNIT} = 1:", "", *table(("engine", *own), cells)]


def _relative(block: Sequence[results.Row], engine: str, form: str) -> str:
    value = relative(block, engine)
    return "" if value is None else form.format(value)


def relative(block: Sequence[results.Row], engine: str) -> float | None:
    """Speed of an engine, `UNIT` being 1; None where one of both did not run."""
    found = {row["engine"]: row for row in block}
    if engine not in found or UNIT not in found:
        return None
    return results.ratio(found[engine], found[UNIT]).median


def _block(block: Sequence[results.Row]) -> list[str]:
    peer = results.best_peer(block)
    ordered = sorted(block, key=lambda row: row["median_seconds"])
    titles = (
        "engine", "median ms", "min ms", "tokens/s", "share of peak",
        f"against {peer['engine']}" if peer else "against best peer",
        "max, mean difference", "cosine", "rounds", "variant",
    )  # fmt: skip
    return [
        f"{ordered[0]['real_tokens']:,.0f} real tokens.",
        "",
        *table(titles, [_cells(row, peer) for row in ordered]),
    ]


def _cells(row: results.Row, peer: results.Row | None) -> list[str]:
    share, close = row["share_of_peak"], row["accuracy"]
    against = ""
    if peer is not None and peer is not row:
        found = results.ratio(row, peer)
        against = f"{found.median:.2f} ({found.low:.2f} - {found.high:.2f})"
    name = f"**{row['engine']}**" if not names.parse(row["engine"]).is_peer else row["engine"]
    return [
        name,
        f"{1000 * row['median_seconds']:,.1f}",
        f"{1000 * row['min_seconds']:,.1f}",
        f"{row['tokens_per_second']:,.0f}",
        f"{share:.0%}" if share else "",
        against,
        f"{close['max_difference']:.1e}, {close['mean_difference']:.1e}" if close else "",
        f"{close['mean_cosine']:.5f}" if close else "",
        str(row["rounds"]),
        row["variant"],
    ]


def _left_out(left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"- {each['engine']} on {each['model']}: {each['reason']}" for each in left_out]


def plot(path: Path, result: Mapping[str, Any], model: str) -> None:
    """Bars of speed against peers, workload by workload."""
    own = {
        workload: block for (of, workload), block in results.blocks(result).items() if of == model
    }
    figure, axes = pyplot.subplots(figsize=(8.6, 4.2), layout="constrained")
    width = 0.85 / len(PLOTTED)
    for number, (engine, colour) in enumerate(PLOTTED.items()):
        heights = [relative(block, engine) or 0.0 for block in own.values()]
        if any(heights):
            places = [
                group + (number - len(PLOTTED) / 2 + 0.5) * width for group in range(len(own))
            ]
            axes.bar(places, heights, width, color=colour, label=engine)
    axes.axhline(1.0, color="grey", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(own)), list(own))
    axes.set(ylabel=f"speed, {UNIT} = 1", title=f"{model}, {result['machine']['cpu']}")
    figure.legend(loc="outside lower center", fontsize="x-small", ncols=5)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
