"""The scheduling simulator's own arithmetic: lanes, stalls, scores, and rules of rivals."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scheduling import (
    engine,
    playing,
    report,
    rivals,
    scenarios,
    scores,
    service,
    traces,
)

FLAT = service.Service(name="flat", fixed_s=0.01, token_s=0.001, square_s=0.0, rows_at_best=10)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def device(**more: object) -> engine.Device:
    """Quiet lanes for `FLAT`."""
    return engine.Device(services={"": FLAT}, noise=0.0, **more)  # type: ignore[arg-type]


def calls(
    lengths: Sequence[int], *, every_s: float = 0.0, span_s: float = 100.0
) -> list[traces.Call]:
    """A row each."""
    return [
        traces.Call(arrival_s=at * every_s, deadline_s=at * every_s + span_s, lengths=(length,))
        for at, length in enumerate(lengths)
    ]


def test_a_lane_takes_as_long_as_the_formula_says() -> None:
    """One row after the other on one lane: 10 ms and a millisecond for each token."""
    outcome = engine.run(calls([10, 20]), rivals.Fifo(most_rows=1), device(), seed=0)
    assert outcome.finished_s == pytest.approx([0.02, 0.05])
    assert outcome.batches == [1, 1]
    assert outcome.busy_s == pytest.approx(0.05)


def test_padding_costs_as_much_as_the_longest_row() -> None:
    """Rows of 1 and 9 tokens: 20 ms in a ragged batch, 28 ms in a padded one."""
    assert FLAT.seconds([1, 9]) == pytest.approx(0.020)
    assert FLAT.seconds([1, 9], padded=True) == pytest.approx(0.028)


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, lanes=st.integers(1, 3), rows=st.integers(1, 8))
def test_no_row_is_lost_or_run_twice_and_no_lane_holds_two(
    lengths: list[int], lanes: int, rows: int
) -> None:
    """Every row ends in one batch, and lanes are never busy for longer than time goes."""
    trace = calls(lengths, every_s=0.003)
    outcome = engine.run(trace, rivals.Fifo(most_rows=rows), device(lanes=lanes), seed=0)
    assert sum(outcome.batches) == len(lengths)
    assert max(outcome.finished_s) < math.inf
    assert outcome.busy_s <= lanes * max(outcome.finished_s) + 1e-9


@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 9), span_s=st.floats(0.02, 1.0))
def test_bertd_tells_every_call_once(lengths: list[int], seed: int, span_s: float) -> None:
    """Each call is refused, or answered, or its deadline passed while it waited."""
    scenario = scenarios.SCENARIOS[0]
    trace = [
        traces.Call(
            arrival_s=0.002 * at, deadline_s=0.002 * at + span_s, lengths=(length,),
            model=scenarios.MODEL,
        )
        for at, length in enumerate(lengths)
    ]  # fmt: skip
    outcome = engine.run(trace, playing.bertd(scenario), scenario.device, seed=seed)
    answered = [end_s < math.inf for end_s in outcome.finished_s]
    assert sum(answered) == sum(outcome.batches)
    assert not any(map(all, zip(answered, outcome.refused, strict=True)))


def test_a_stall_of_a_lane_holds_what_it_runs() -> None:
    """A batch that is on the lane ends later by what is left of the stall."""
    stall = engine.Stall(lane=0, at_s=0.01, seconds=1.0)
    outcome = engine.run(calls([10]), rivals.Fifo(most_rows=1), device(stalls=(stall,)), seed=0)
    assert outcome.finished_s == pytest.approx([1.02])
    assert stall.delay_s(0.51, 0.1) == pytest.approx(0.5)
    assert stall.delay_s(1.01, 0.1) == stall.delay_s(0.0, 0.01) == 0.0


def test_a_model_that_stands_still_leaves_its_lane_to_others() -> None:
    """The other model's row runs meanwhile, on the only lane there is."""
    both = engine.Device(
        services={"a": FLAT, "b": FLAT},
        noise=0.0,
        stalls=(engine.Stall(model="b", at_s=0.0, seconds=1.0),),
    )
    trace = [
        traces.Call(arrival_s=at, deadline_s=9.0, lengths=(10,), model=model)
        for at, model in ((0.0, "b"), (0.001, "a"))
    ]
    queues = {model: rivals.Fifo(most_rows=1) for model in "ab"}
    outcome = engine.run(trace, rivals.Turns(queues, 1), both, seed=0)
    assert outcome.finished_s == pytest.approx([1.02, 0.021])


def test_scores_count_calls_whole_and_latencies_without_end() -> None:
    """A call is good once its last row is in time; one that was admitted and forgotten is late."""
    trace = [
        traces.Call(arrival_s=0.0, deadline_s=1.0, lengths=(5, 5)),
        traces.Call(arrival_s=0.0, deadline_s=1.0, lengths=(10,)),
        traces.Call(arrival_s=0.0, deadline_s=1.0, lengths=(10,)),
    ]
    outcome = engine.Outcome(refused=[False, True, False], finished_s=[0.5, math.inf, math.inf])
    found = scores.score(trace, outcome, from_s=0.0, until_s=2.0, device=device())
    assert (found["offered"], found["good"], found["refused"]) == (4, 0.5, 0.25)
    assert found["p50_s"] == 0.5
    assert found["p99_s"] is None
    assert found["goodput"] == pytest.approx((0.010 + 2 * 0.001) / 2)


def test_traces_repeat_and_have_the_rate_that_was_asked() -> None:
    """Equal seeds give equal arrivals; Poisson and bursts come at the same mean rate."""
    scenario = scenarios.SCENARIOS[0]
    assert scenario.trace(1.2, 3) == scenario.trace(1.2, 3)
    for draw in (traces.poisson, traces.bursts):
        times = draw(np.random.default_rng(1), 100.0, 400.0)
        assert len(times) == pytest.approx(40_000, rel=0.15)
        assert (np.diff(times) >= 0).all()


def test_infinity_sorts_its_window_and_tei_stops_at_the_head() -> None:
    """Windows of 32 by length; a token budget that counts padding and never looks past the head."""
    items = [engine.Item(n, 64 - n, 0.0, 9.0, "", "") for n in range(64)]
    infinity = rivals.Infinity()
    infinity.offer(items, 0.0)
    first = infinity.take(0.0, 1)
    assert first is not None
    assert [item.tokens for item in first.items] == list(range(1, 33))
    queue = rivals.Fifo(most_rows=8, most_tokens=100)
    queue.offer(
        [engine.Item(n, tokens, 0.0, 9.0, "", "") for n, tokens in enumerate((10, 60, 1))], 0
    )
    batches = [queue.take(0.0, 1) for _ in range(3)]
    assert [len(batch.items) for batch in batches if batch is not None] == [1, 1, 1]


def test_results_are_written_with_their_plots(tmp_path: Path) -> None:
    """JSON, tables and plots small enough for the documents, from one short run."""
    names = {*report.CURVES, "modest", "greedy", "beside"}
    played = [
        {**row, "load": load, "scenario": name}
        for name in sorted(names)
        for load in (report.FAIR_LOAD, report.REFUSED_LOAD)
        for row in [_row()]
    ]
    result = {
        "date": "2026-11-20", "command": "python -m benchmarks.scheduling", "seed": 5,
        "scenarios": [{"name": name, "title": name, "capacity_per_s": 1.0} for name in names],
        "rows": played,
    }  # fmt: skip
    paths = report.write(tmp_path, "scheduling-202611", result)
    assert {path.suffix for path in paths} == {".json", ".md", ".svg"}
    assert all(path.stat().st_size < 150_000 for path in paths)
    assert json.loads(paths[0].read_text())["rows"] == played
    assert "| **bertd** | 0.50 | 25.0% |" in paths[1].read_text()


def _row() -> dict[str, object]:
    score = {
        "goodput": 0.5, "good": 0.5, "refused": 0.25, "late": 0.25, "p50_s": 0.1, "p99_s": None,
    }  # fmt: skip
    groups = {name: score for name in ("others", "own")}
    return {**score, "policy": "bertd", "rows_per_batch": 2.0, "groups": groups}
