"""The result of `bertd bench` in words and columns. Pure."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bertd.cli import table, terminal
from bertd.load import outcome
from bertd.manifest import quantities

if TYPE_CHECKING:
    from bertd.cli import load
    from bertd.load import generator

HEADER = ("CALLS", "COUNT", "PER SECOND", "P50", "P90", "P99", "P99.9", "MEAN", "MAX")
LAG_WORTH_A_WORD_MS = 10.0


def title(asked: "load.Asked") -> str:
    """What was measured, in one line."""
    loop = f"open loop, {asked.rate:g} calls/s" if asked.rate else _callers(asked.concurrency)
    texts = "1 text" if asked.inputs == 1 else f"{asked.inputs} texts"
    deadline = quantities.print_duration(asked.deadline_s)
    return f"{asked.target}, {asked.method}: {loop}, {texts} a call, deadline {deadline}"


def text(
    asked: "load.Asked",
    tally: outcome.Tally,
    *,
    adapters: Sequence[str],
    texts: str,
    core_s: float,
) -> str:
    """The whole report; `core_s` is what the generator itself spent on a call."""
    pairs = [
        *([("adapters", f"{len(adapters)}, drawn at random")] if asked.adapters else []),
        ("texts", texts),
        ("span", _span(asked, tally)),
        ("goodput", f"{_rate(tally.good, tally)}/s within the deadline"),
        *_told(tally),
        ("generator", _generator(tally, core_s)),
    ]
    facts = "\n".join(f"{name + ':':<11} {value}" for name, value in pairs)
    return f"{terminal.visible(title(asked))}\n\n{_table(tally)}\n\n{facts}"


def progress(running: "generator.Generator") -> str:
    """One line while the load runs."""
    now_s, tally = time.monotonic(), running.tally
    if now_s < running.begins_s:
        return f"warming up: {running.outstanding} calls under way"
    past_s = min(now_s, running.ends_s) - running.begins_s
    p50, p99 = (_ms(tally.latency.percentile(rank)) for rank in (500, 990))
    return (
        f"{past_s:.0f}/{running.plan.duration_s:g} s: {tally.answered / max(past_s, 1e-3):.0f}/s, "
        f"p50 {p50}, p99 {p99}, {running.outstanding} under way, "
        f"{tally.refused} refused, {tally.expired} expired, {tally.failed} failed"
    )


def warnings(tally: outcome.Tally) -> Iterator[str]:
    """What a reader of the numbers must know."""
    lag_ms = outcome.ms(tally.lag.percentile(990)) or 0.0
    if lag_ms > LAG_WORTH_A_WORD_MS:
        yield (
            f"the generator itself was late: 1 % of the calls left {lag_ms:.0f} ms or more after "
            "they were due, which their latency counts; lower the load, or give it a core"
        )
    for problem, count in tally.problems.items():
        yield f"{count} calls failed: {terminal.visible(problem)}"


def _table(tally: outcome.Tally) -> str:
    latency, refusal = tally.latency, tally.refusal
    rows = [
        ("ok", str(tally.ok), _rate(tally.answered, tally), *_times(latency)),
        ("refused", str(tally.refused), _rate(tally.refused, tally), *_times(refusal)),
        ("expired", str(tally.expired), _rate(tally.expired, tally)),
        ("failed", str(tally.failed), _rate(tally.failed, tally)),
        ("sent", str(tally.sent), _rate(tally.sent, tally)),
    ]
    return table.render(HEADER, [row + ("",) * (len(HEADER) - len(row)) for row in rows])


def _times(times: outcome.Histogram) -> list[str]:
    if not times.count:
        return [""] * 6
    seconds = [*(times.percentile(rank) for rank in (500, 900, 990, 999)), times.mean_s]
    return [_ms(each) for each in (*seconds, times.most_s)]


def _told(tally: outcome.Tally) -> Iterator[tuple[str, str]]:
    """What replies said, where there were any."""
    if not tally.told:
        return
    yield "tokens", f"{_rate(tally.tokens, tally)}/s"
    parts = (tally.tokenize_s, tally.queue_s, tally.inference_s)
    tokenize, queue, compute = (_ms(spent_s / tally.told) for spent_s in parts)
    yield "server", f"tokenize {tokenize}, queue {queue}, compute {compute} (means)"
    name = "revision" if len(tally.revisions) == 1 else "revisions"
    yield name, terminal.visible(", ".join(sorted(tally.revisions)))


def _span(asked: "load.Asked", tally: outcome.Tally) -> str:
    warm_up = quantities.print_duration(asked.warm_up_s)
    return f"{tally.duration_s:.3g} s after {warm_up} of warm-up"


def _generator(tally: outcome.Tally, core_s: float) -> str:
    late = _ms(tally.lag.percentile(990))
    return f"99 % of the calls left at most {late} late; each cost it {_ms(core_s)} of a core"


def _callers(count: int) -> str:
    return f"closed loop, {count} caller{'s' if count > 1 else ''}"


def _rate(count: int, tally: outcome.Tally) -> str:
    return f"{count / tally.duration_s:.1f}" if tally.duration_s else ""


def _ms(value_s: float | None) -> str:
    """Three digits or so: 0.123 ms, 12.3 ms, 1234 ms."""
    if value_s is None:
        return "-"
    value_ms = value_s * 1000
    digits = 3 if value_ms < 1 else 2 if value_ms < 10 else 1 if value_ms < 100 else 0
    return f"{value_ms:.{digits}f} ms"
