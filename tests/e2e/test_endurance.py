"""Load for a while, as `make endurance` puts it on for minutes."""

import pytest

from benchmarks import endurance
from tests.e2e import conftest

pytestmark = pytest.mark.e2e

SECONDS = 6.0
LOAD = 0.5  # other work on the machine may take the rest
MOST_GROWTH_KIB = 16 * 1024  # seconds after its start, a process still fills its pools


@pytest.fixture(name="pids")
def _pids(quickstart: conftest.Daemon) -> dict[str, int]:
    return {"front": quickstart.pid, "worker": quickstart.worker_pid(endurance.MODEL)}


async def test_no_call_is_lost_and_nothing_grows(
    quickstart: conftest.Daemon, pids: dict[str, int]
) -> None:
    """Steady load loses no call and no row, and leaves threads and descriptors as they are."""
    before = endurance.accounted(quickstart.metrics)
    _, tally, samples = await endurance.measure(quickstart.data, pids, SECONDS, LOAD, 1.5)
    assert tally.failed == tally.expired == 0, tally.problems
    assert tally.ok + tally.refused == tally.sent > 0
    rows = endurance.accounted(quickstart.metrics)
    assert rows["received"] == rows["ended"]
    assert rows["answered"] - before["answered"] >= tally.ok
    grown = endurance.growth(samples)
    for process in pids:
        assert grown[process, "resident KiB"] <= MOST_GROWTH_KIB
        for sign in ("threads", "descriptors"):
            assert grown[process, sign] <= endurance.MOST_GROWTH[sign]


def test_growth_is_the_slope_of_the_second_half() -> None:
    """What fills up at first is no growth; what goes on growing is, by as much as it grows."""
    flat = [endurance.Sample(at_s=t, process="p", signs=signs(1000)) for t in range(11)]
    filling = [endurance.Sample(at_s=t, process="p", signs=signs(min(t, 5))) for t in range(11)]
    leaking = [endurance.Sample(at_s=t, process="p", signs=signs(100 * t)) for t in range(11)]
    found = [endurance.growth(each)["p", "resident KiB"] for each in (flat, filling, leaking)]
    assert found == pytest.approx([0, 0, 500])


def signs(kib: int) -> dict[str, int]:
    """What a process of so much memory occupies."""
    return {"resident KiB": kib, "threads": 3, "descriptors": 4}
