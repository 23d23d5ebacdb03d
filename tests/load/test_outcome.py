"""Counts and percentiles in bounded memory, and their summary."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.load import outcome
from bertd.load.outcome import Histogram, Outcome, Tally

RANKS = (500, 900, 990, 999)
times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=300)


def histogram(values) -> Histogram:
    """One that has recorded these."""
    made = Histogram()
    for each in values:
        made.record(each)
    return made


@given(times, st.sampled_from(RANKS))
def test_a_percentile_is_within_a_hundredth_of_the_value_at_its_rank(values, per_mille):
    """Whatever the values, the nearest rank's value is told within 1 %."""
    exact = sorted(values)[math.ceil(len(values) * per_mille / 1000 - 1e-9) - 1]
    assert histogram(values).percentile(per_mille) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_of_a_long_tail_agree_with_numpy(seed):
    """20,001 log-normal times: p50 to p99.9 within 1 %, mean and maximum exactly."""
    values = np.random.default_rng(seed).lognormal(-4, 1.2, 20_001)
    made = histogram(values)
    for rank in RANKS:
        exact = np.percentile(values, rank / 10, method="inverted_cdf")
        assert made.percentile(rank) == pytest.approx(exact, rel=0.01)
    assert made.mean_s == pytest.approx(values.mean())
    assert made.percentile(1000) == made.most_s == values.max()


@given(times, times)
def test_merging_is_recording_everything(some, others):
    """Two histograms merged say what one of all values says."""
    merged, whole = histogram(some), histogram(some + others)
    merged.merge(histogram(others))
    assert [merged.percentile(rank) for rank in RANKS] == [whole.percentile(rank) for rank in RANKS]
    assert (merged.count, merged.least_s, merged.most_s) == (
        whole.count,
        whole.least_s,
        whole.most_s,
    )
    assert merged.mean_s == pytest.approx(whole.mean_s)


def test_nothing_recorded_is_nothing_known():
    """Without a value there is no percentile, no mean, and an empty distribution."""
    empty = Histogram()
    assert empty.percentile(500) is None
    assert empty.mean_s is None
    assert empty.distribution() == ([], [])


def test_times_beyond_the_buckets_stay_within_what_was_seen():
    """A time of zero, a negative one and one of a year keep memory as it is and order too."""
    made = histogram([-1.0, 0.0, 3.2e7])
    assert made.percentile(500) <= outcome.LEAST_S
    assert made.percentile(1000) == 3.2e7
    values_s, shares = made.distribution()
    assert values_s == sorted(values_s)
    assert shares[-1] == 1.0


def test_every_end_is_counted_once():
    """Latency is that of answers, refusals have their own, and failures say why."""
    tally = Tally(duration_s=2.0, sent=4, answered=3, good=2, tokens=30)
    tally.end(Outcome.OK, 0.010)
    tally.end(Outcome.REFUSED, 0.001)
    tally.end(Outcome.EXPIRED, 5.0)
    tally.end(Outcome.FAILED, 9.0, "INTERNAL: error 17")
    assert (tally.ok, tally.refused, tally.expired, tally.failed) == (1, 1, 1, 1)
    assert tally.problems == {"INTERNAL: error 17": 1}
    told = outcome.summary(tally)
    assert told["rps"] == 1.5
    assert told["goodput_rps"] == 1.0
    assert told["tokens_per_s"] == 15.0
    assert told["latency_ms"]["max"] == 10.0
    assert told["refusal_ms"]["p99"] == 1.0


def test_the_summary_has_these_fields_and_is_json():
    """Every field is there whatever happened; what is not known is null."""
    told = json.loads(json.dumps(outcome.summary(Tally())))
    assert told == {
        "ok": 0,
        "failed": 0,
        "refused": 0,
        "expired": 0,
        "sent": 0,
        "rps": 0.0,
        "goodput_rps": 0.0,
        "duration_s": 0.0,
        "latency_ms": dict.fromkeys(("p50", "p90", "p99", "p999", "mean", "max")),
        "refusal_ms": {"p50": None, "p99": None},
        "server_ms": {"tokenize": None, "queue": None, "inference": None},
        "tokens_per_s": 0.0,
        "lag_ms": None,
    }


def test_tallies_of_several_generators_add_up():
    """Counts, times, revisions and problems are those of all; the span is the same one."""
    tallies = []
    for latency_s, revision in ((0.01, "a"), (0.03, "b")):
        tally = Tally(duration_s=2.0, sent=2, answered=1, told=1, queue_s=latency_s)
        tally.end(Outcome.OK, latency_s)
        tally.end(Outcome.FAILED, 0.0, "x")
        tally.saw(revision)
        tallies.append(tally)
    whole, other = tallies
    whole.merge(other)
    told = outcome.summary(whole)
    assert (whole.sent, whole.ok, whole.failed) == (4, 2, 2)
    assert (whole.revisions, whole.problems) == ({"a", "b"}, {"x": 2})
    assert (told["rps"], told["server_ms"]["queue"]) == (1.0, 20.0)
    assert told["latency_ms"]["mean"] == 20.0


def test_problems_and_revisions_are_bounded():
    """Texts that differ call by call do not fill the memory: the rest is counted together."""
    tally = Tally()
    for at in range(1000):
        tally.end(Outcome.FAILED, 0.0, f"error {at}")
        tally.saw(f"r{at}")
    assert sum(tally.problems.values()) == 1000
    assert len(tally.problems) == outcome.MAX_PROBLEMS + 1
    assert len(tally.revisions) == outcome.MAX_REVISIONS
