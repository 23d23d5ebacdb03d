"""The plot of `bertd bench --plot`: latency over time, and how latencies are distributed."""

from pathlib import Path

from matplotlib import figure

from bertd import errors
from bertd.load import outcome, timeline

COLOURS = {
    outcome.Outcome.OK: "#2a78b8",
    outcome.Outcome.REFUSED: "#e69f00",
    outcome.Outcome.EXPIRED: "#c0392b",
    outcome.Outcome.FAILED: "#000000",
}
MARKED = ((500, "p50"), (900, "p90"), (990, "p99"), (999, "p99.9"))


def draw(path: Path, points: timeline.Timeline, tally: outcome.Tally, *, title: str) -> None:
    """Writes the plot in the form that the file's name says.

    Raises:
        errors.InvalidRequest: The file cannot be written.
    """
    drawing = figure.Figure(figsize=(10, 4.2), layout="constrained")
    over_time, shares = drawing.subplots(1, 2, width_ratios=(3, 2))
    drawing.suptitle(title, fontsize=10)
    for end, colour in COLOURS.items():
        found = list(points.points(end))
        if found:
            at_s, latency_s = zip(*found, strict=True)
            over_time.scatter(
                at_s, [value * 1000 for value in latency_s], s=3, color=colour, label=end.value
            )
    over_time.set(xlabel="seconds since the span began", ylabel="latency, ms", yscale="log")
    if tally.sent:
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        over_time.legend(**place, ncols=len(COLOURS), fontsize=8, markerscale=3, frameon=False)
    values_s, share = tally.latency.distribution()
    shares.step(
        [value * 1000 for value in values_s], share, where="post", color=COLOURS[outcome.Outcome.OK]
    )
    for rank, name in MARKED:
        value_s = tally.latency.percentile(rank)
        if value_s is not None:
            shares.axvline(value_s * 1000, color="#999999", linewidth=0.7)
            shares.text(value_s * 1000, 0.02, f" {name}", fontsize=7, rotation=90, va="bottom")
    shares.set(xlabel="latency, ms", ylabel="share of answers", xscale="log", ylim=(0, 1.01))
    for axes in (over_time, shares):
        axes.grid(alpha=0.3)
    try:
        drawing.savefig(path)
    except OSError as error:
        raise errors.InvalidRequest(f"`--plot` cannot be written: {error}") from None
