"""How much of the machine a model uses: operations that answers needed over what lanes could do.

Operations are those of matrix products on real tokens (multiply and add count as two). Padding,
elementwise work, Python and waiting for memory all show as what is missing to 1.
"""

from collections.abc import Mapping

HALF_LIFE_BUSY_S = 30.0  # lane-seconds of work after which what was before counts half


def peak_per_s(facts: Mapping[str, object]) -> float:
    """What one thread of a worker can do in its precision; 0 where it measured no such peak."""
    peaks = facts.get("peakOperationsPerSecond")
    peak = peaks.get(facts.get("precision")) if isinstance(peaks, Mapping) else None
    return float(peak) if isinstance(peak, int | float) and peak > 0 else 0.0


class Efficiency:
    """The share of the peak that batches reached, recent ones counting more.

    Weights fall with busy time and not with the clock: an idle hour changes nothing. The peak is
    what was measured, or the rate of the fastest batch where that was higher: then something
    disturbed the measurement. So the share is never above 1.
    """

    def __init__(self) -> None:
        self._operations = 0.0
        self._busy_s = 0.0
        self._best_per_s = 0.0

    def learn(self, peak_per_s: float, operations: float, seconds: float, threads: int) -> float:
        """One batch that needed `operations` kept so many threads busy for `seconds`.

        Returns:
            The share of the peak that was reached lately; 0 before any time was spent.
        """
        busy_s = max(0.0, seconds) * threads
        if busy_s > 0:
            kept = 0.5 ** (busy_s / HALF_LIFE_BUSY_S)
            self._operations = kept * self._operations + operations
            self._busy_s = kept * self._busy_s + busy_s
            self._best_per_s = max(self._best_per_s, operations / busy_s)
        possible = self._busy_s * max(peak_per_s, self._best_per_s)
        return min(1.0, self._operations / possible) if possible else 0.0
