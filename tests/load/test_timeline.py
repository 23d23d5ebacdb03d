"""Calls over time, thinned out."""

import itertools

from bertd.load import timeline
from bertd.load.outcome import Outcome


def test_few_calls_are_all_kept():
    """Every call is there, by how it ended."""
    line = timeline.Timeline()
    line.add(0.5, 0.010, Outcome.OK)
    line.add(0.6, 0.001, Outcome.REFUSED)
    assert list(line.points(Outcome.OK)) == [(0.5, 0.010)]
    assert list(line.points(Outcome.REFUSED)) == [(0.6, 0.001)]
    assert list(line.points(Outcome.FAILED)) == []


def test_many_calls_are_thinned_evenly():
    """However many there are, the points are bounded, equally far apart, and reach the end."""
    line = timeline.Timeline()
    for at in range(5 * timeline.MAX_POINTS):
        line.add(float(at), 0.01, Outcome.OK)
    points = [at for at, _ in line.points(Outcome.OK)]
    assert timeline.MAX_POINTS / 2 <= len(points) < timeline.MAX_POINTS
    gaps = {b - a for a, b in itertools.pairwise(points)}
    assert len(gaps) == 1
    assert points[-1] >= 5 * timeline.MAX_POINTS - gaps.pop()
