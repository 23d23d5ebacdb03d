"""A timer finer than an event loop's, whose timers are due to whole milliseconds.

At 1,000 calls a second that would be as long as the gaps between them. Linux has timerfd: a
descriptor that becomes readable when a time comes, to about 50 us; elsewhere the loop's timer does.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

CLOCK_MONOTONIC = 1  # the clock of time.monotonic
TFD_TIMER_ABSTIME = 1
_COUNTER_BYTES = 8


class Alarm(Protocol):
    """Calls back once for each `set`, at a time of `time.monotonic`; a new `set` replaces it."""

    def set(self, at_s: float) -> None:
        """Calls back at that time, or soon where it has passed."""

    def close(self) -> None:
        """Never calls back again."""


def make(callback: Callable[[], None]) -> Alarm:
    """The finest alarm that this system has; to be made in a running event loop."""
    loop = asyncio.get_running_loop()
    if sys.platform == "linux":
        try:
            return _TimerFd(loop, callback)
        except OSError:  # no descriptor is left, or a sandbox forbids the call
            pass
    return _Coarse(loop, callback)


class _Itimerspec(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class _TimerFd:
    """By timerfd_create(2): Python has it from 3.13 on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._time = _Itimerspec(0, 0, 0, 0)
        loop.add_reader(self._fd, self._ring)

    def set(self, at_s: float) -> None:
        at_ns = max(1, int(at_s * 1e9))  # zero would disarm it
        self._time.at_s, self._time.at_ns = divmod(at_ns, 1_000_000_000)
        self._libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(self._time), None)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ring(self) -> None:
        try:
            os.read(self._fd, _COUNTER_BYTES)
        except BlockingIOError:  # set anew between the readiness and now
            return
        self._callback()


class _Coarse:
    """By the loop's own timer, rounded up: rounded down it would spin until the time has come."""

    STEP_S = 0.001

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        self.close()
        left_s = max(at_s - time.monotonic(), self.STEP_S)
        self._timer = self._loop.call_later(left_s, self._callback)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
