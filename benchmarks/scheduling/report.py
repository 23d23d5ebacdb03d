"""The scores as JSON, as Markdown tables and as plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.adapters.report import table

Record = Mapping[str, Any]
# Colour and line: bertd, rules for ragged batches (solid), servers as they ship (dashed).
STYLES = {
    "bertd": ("#08519c", "-"),
    "fifo-predict": ("#41ab5d", "-"),
    "codel-lifo": ("#fd8d3c", "-"),
    "edf": ("#756bb1", "-"),
    "fifo-drop": ("#969696", "-"),
    "fifo-512": ("#252525", "-"),
    "infinity": ("#a63603", "--"),
    "tei": ("#dd3497", "--"),
    "triton": ("#41b6c4", "--"),
    "batch-inference": ("#bdbdbd", "--"),
    "tassadar": ("#bcbd22", "--"),
}
CURVES = ("poisson", "minilm", "gpu", "bursts", "heavy", "deadlines")
NEVER_S = 10.0  # where a latency is drawn that has no end
FAIR_LOAD, REFUSED_LOAD = 0.7, 2.0
STATED_LOADS = (0.6, 0.9, 1.2, 2.0)


def write(folder: Path, name: str, result: Mapping[str, Any]) -> list[Path]:
    """Writes the results, the tables and four plots; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("json", "md")]
    paths[0].write_text(json.dumps(_rounded(result), separators=(",", ":")) + "\n")
    paths[1].write_text(markdown(result))
    for kind, draw in PLOTS.items():
        pyplot.rcParams["svg.hashsalt"] = kind  # the same names of parts every time
        figure = draw(result)
        paths.append(folder / f"{name}.{kind}.svg")
        figure.savefig(paths[-1], metadata={"Date": None})
        pyplot.close(figure)
    return paths


def _rounded(value: Any) -> Any:
    """The same to five digits: a simulation promises no more."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


# Tables.


def markdown(result: Mapping[str, Any]) -> str:
    """A table for each scenario, headed by what was played."""
    lines = [
        f"# Scheduling, {result['date']}",
        "",
        f"`{result['command']}`",
        "",
        "Simulated: virtual time, lanes that take a + b·tokens + c·Σ length² ± 5 %, arrivals from "
        "a seed, the same for everybody. `bertd` is the code that serves (`bertd.batching` and the "
        "feeder and dispatcher of `bertd.runtime`), and learns its costs as it goes; the others "
        "are their rules, written down from their source or documents. `tei`, `infinity`, "
        "`triton`, `batch-inference` and `tassadar` pad their batches, as they do; all others run "
        "ragged ones.",
        "",
        "Loads are multiples of the rows a second that lanes answer in full ragged batches. "
        "Goodput is the work of rows answered in time over the lanes' time, so about 1 is the "
        "most. p50 and p99 are of admitted calls; ∞: so many were never answered.",
    ]
    for scenario in result["scenarios"]:
        records = _of(result, scenario["name"])
        lines += ["", f"## {scenario['title']}", ""]
        lines.append(f"`{scenario['name']}`, capacity {scenario['capacity_per_s']:,.0f} rows/s.")
        lines += ["", *_table(records)]
    return "\n".join([*lines, ""])


def _table(records: Sequence[Record]) -> list[str]:
    groups = list(records[0]["groups"])
    titles = ["load", "policy", "goodput", "refused", "late", "p50 ms", "p99 ms", "rows/batch"]
    titles += [f"{group}: {what}" for group in groups for what in ("in time", "p99 ms")]
    loads = {record["load"] for record in records}
    stated = loads & set(STATED_LOADS) if len(loads) > len(STATED_LOADS) else loads
    return table(titles, [_cells(record) for record in records if record["load"] in stated])


def _cells(record: Record) -> list[str]:
    name = record["policy"]
    cells = [
        f"{record['load']:g}",
        f"**{name}**" if name == "bertd" else name,
        f"{record['goodput']:.2f}",
        _share(record["refused"]),
        _share(record["late"]),
        _ms(record["p50_s"]),
        _ms(record["p99_s"]),
        f"{record['rows_per_batch']:.1f}",
    ]
    for score in record["groups"].values():
        cells += [_share(score["good"]), _ms(score["p99_s"])]
    return cells


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _ms(seconds: float | None) -> str:
    return "∞" if seconds is None else f"{1000 * seconds:,.0f}"


def _of(result: Mapping[str, Any], scenario: str) -> list[Record]:
    return [record for record in result["rows"] if record["scenario"] == scenario]


# Plots.


def _goodput(result: Mapping[str, Any]) -> Figure:
    return _curves(result, "goodput", ylabel="work answered in time / lanes' time")


def _p99(result: Mapping[str, Any]) -> Figure:
    figure = _curves(result, "p99_s", ylabel="p99 of the admitted, s")
    for axes in figure.axes:
        axes.set(yscale="log", ylim=(0.004, 1.4 * NEVER_S))
        axes.minorticks_off()  # labels of theirs make half of the file
        axes.axhline(NEVER_S, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate("never", (0.3, NEVER_S), fontsize=6, va="bottom", color="grey")
    return figure


def _curves(result: Mapping[str, Any], what: str, *, ylabel: str) -> Figure:
    """A panel for each scenario, a line for each policy, over the offered load."""
    figure, grid = pyplot.subplots(2, 3, figsize=(9.6, 5.6), layout="constrained", sharex=True)
    titles = {each["name"]: each["title"] for each in result["scenarios"]}
    for axes, name in zip(grid.flat, CURVES, strict=True):
        records = _of(result, name)
        for policy in reversed(STYLES):
            _line(axes, [each for each in records if each["policy"] == policy], what, policy)
        axes.set_title(titles.get(name, name).replace(", ", "\n", 1), fontsize=7)
        axes.tick_params(labelsize=7)
        if what == "goodput":
            axes.plot([0.3, 1, 3], [0.3, 1, 1], color="grey", linewidth=0.8, linestyle=":")
    for axes in grid[-1]:
        axes.set_xlabel("offered load / capacity", fontsize=7)
    figure.supylabel(ylabel, fontsize=8)
    _legend(figure, grid.flat[0])
    return figure


def _line(axes: Axes, records: Sequence[Record], what: str, policy: str) -> None:
    colour, style = STYLES[policy]
    axes.plot(
        [each["load"] for each in records],
        [NEVER_S if each[what] is None else each[what] for each in records],
        color=colour, linestyle=style, label=policy,
        linewidth=2.4 if policy == "bertd" else 1.1,
    )  # fmt: skip


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside lower center", fontsize="x-small", ncols=6
    )


def _fairness(result: Mapping[str, Any]) -> Figure:
    """Nine tenants without and with a greedy tenth; one model beside another that grows."""
    figure, (tenants, models) = pyplot.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
    names = list(STYLES)
    for offset, scenario, word in ((-0.2, "modest", "without"), (0.2, "greedy", "with")):
        found = {
            each["policy"]: each["groups"]["others"]
            for each in _of(result, scenario)
            if each["load"] == FAIR_LOAD
        }
        shown = [(place, found[name]) for place, name in enumerate(names) if name in found]
        tenants.bar(
            [place + offset for place, _ in shown],
            [score["p99_s"] or NEVER_S for _, score in shown],
            0.38, color="#9ecae1" if word == "without" else "#08519c", label=f"{word}, p99",
        )  # fmt: skip
        tenants.plot(
            [place + offset for place, _ in shown],
            [score["p50_s"] or NEVER_S for _, score in shown],
            linestyle="",
            marker="_",
            color="black",
            label="p50" if word == "with" else None,
        )
    tenants.set(yscale="log", ylim=(0.01, 1.4 * NEVER_S), ylabel="latency of the nine others, s")
    tenants.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    tenants.set_title(f"one tenant at 10x its share, nine at {FAIR_LOAD:g} of theirs", fontsize=8)
    tenants.legend(fontsize="x-small")
    records = _of(result, "beside")
    for policy in reversed(STYLES):
        own = [
            {"load": each["load"], **each["groups"]["own"]}
            for each in records
            if each["policy"] == policy
        ]
        _line(models, own, "p99_s", policy)
    models.set(
        yscale="log", xlabel="load of the other model / capacity", ylabel="p99 of the first, s"
    )
    models.set_title("a model at 30 % of a core beside another", fontsize=8)
    _legend(figure, models)
    return figure


def _refusals(result: Mapping[str, Any]) -> Figure:
    """What became of the rows offered at twice the capacity."""
    figure, grid = pyplot.subplots(
        1, 3, figsize=(9.6, 3.2), layout="constrained", sharey=True, sharex=True
    )
    colours = {"good": "#08519c", "refused": "#9ecae1", "late": "#de2d26"}
    words = {"good": "in time", "refused": "refused at once", "late": "late or never"}
    for axes, scenario in zip(grid, ("poisson", "bursts", "heavy"), strict=True):
        records = {
            each["policy"]: each for each in _of(result, scenario) if each["load"] == REFUSED_LOAD
        }
        names = [name for name in reversed(STYLES) if name in records]
        left = [0.0] * len(names)
        for what, colour in colours.items():
            widths = [records[name][what] for name in names]
            axes.barh(names, widths, left=left, color=colour, label=words[what])
            left = [before + width for before, width in zip(left, widths, strict=True)]
        axes.set_title(f"{scenario}, {REFUSED_LOAD:g}x capacity", fontsize=8)
        axes.tick_params(labelsize=7)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize="x-small", ncols=3)
    grid[1].set_xlabel("share of the rows offered", fontsize=8)
    return figure


PLOTS = {"goodput": _goodput, "p99": _p99, "fairness": _fairness, "refusals": _refusals}
