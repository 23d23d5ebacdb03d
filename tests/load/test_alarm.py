"""The timer of the open loop."""

import asyncio
import time

import pytest

from bertd.load import alarm


@pytest.fixture(name="make", params=["finest", "coarse"])
def _make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Both kinds: timerfd, and what other systems have."""
    if request.param == "coarse":
        monkeypatch.setattr(alarm.sys, "platform", "darwin")
    return alarm.make


async def rung(make, *at_s: float) -> float:
    """When an alarm rang that was set to these times, one after another."""
    rang: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    clock = make(lambda: rang.set_result(time.monotonic()))
    for each in at_s:
        clock.set(each)
    try:
        return await rang
    finally:
        clock.close()


async def test_it_rings_when_the_time_has_come(make):
    """Never early; a time that has passed rings soon, and never within `set`."""
    at_s = time.monotonic() + 0.02
    assert await rung(make, at_s) >= at_s
    await rung(make, time.monotonic() - 5.0)
    await rung(make, 0.0)


async def test_a_new_time_replaces_the_old_one(make):
    """Set twice, it rings once, at the later setting."""
    at_s = time.monotonic() + 0.03
    assert await rung(make, at_s - 0.02, at_s) >= at_s
    assert await rung(make, at_s + 3600, at_s) < at_s + 60


async def test_closed_it_is_silent(make):
    """After `close` nothing rings, whatever was set."""
    rang = []
    clock = make(lambda: rang.append(1))
    clock.set(time.monotonic() + 0.005)
    clock.close()
    await asyncio.sleep(0.02)
    assert not rang


async def test_without_a_descriptor_the_loops_own_timer_does(monkeypatch):
    """Where the kernel gives no timer, the coarse one takes its place."""

    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(alarm, "_TimerFd", refuse)
    at_s = time.monotonic() + 0.005
    assert await rung(alarm.make, at_s) >= at_s
