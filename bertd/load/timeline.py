"""When calls were due and how long they took, for a plot: at most so many of them. Pure."""

from collections.abc import Iterator

from bertd.load.outcome import Outcome

MAX_POINTS = 20_000


class Timeline:
    """Every call while they are few, then every second one, every fourth, and so on."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float, Outcome]] = []
        self._stride = 1
        self._seen = 0

    def add(self, at_s: float, latency_s: float, outcome: Outcome) -> None:
        """Remembers a call, or passes it over."""
        if self._seen % self._stride == 0:
            self._points.append((at_s, latency_s, outcome))
        self._seen += 1
        if len(self._points) >= MAX_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def points(self, outcome: Outcome) -> Iterator[tuple[float, float]]:
        """Seconds of the span and latencies of the calls that ended like this."""
        return ((at_s, latency_s) for at_s, latency_s, end in self._points if end is outcome)
