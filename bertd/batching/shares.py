"""Fair shares by virtual time: who is due next among parties that want unequal amounts.

A party's virtual time is what it was given, divided by its weight; whoever has the least is due.
Time is read in rounds of a quantum, inside which parties count as equal and something else may
decide. This is deficit round robin (Shreedhar and Varghese, 1995) with start-time fair queueing's
rule for newcomers (Goyal et al., 1996): who was away owns nothing of the past, except that it may
be one quantum behind, so that whoever wants little is served at once.
"""

import math
from collections.abc import Hashable

# Parties that went away are remembered, so that leaving and coming back brings no advantage.
MOST_REMEMBERED = 65_536

QUANTUM = 128.0


def round_of(served: float, quantum: float = QUANTUM) -> int:
    """The round that a party is in."""
    return math.floor(served / quantum)


class Shares:
    """What each party was given; has one owner, and takes no locks.

    Args:
        quantum: Amount, at weight 1, up to which parties count as equally served.
    """

    def __init__(self, quantum: float = QUANTUM) -> None:
        self._quantum = quantum
        self._served: dict[Hashable, float] = {}
        self._now = 0.0

    def of(self, party: Hashable) -> float:
        """The virtual time of a party."""
        return self._served.get(party, self._now - self._quantum)

    def round(self, party: Hashable) -> int:
        """The round that a party is in; the lowest is due."""
        return round_of(self.of(party), self._quantum)

    def entering(self, party: Hashable) -> float:
        """The virtual time of a party that wants nothing now, if it wanted something."""
        return max(self.of(party), self._now - self._quantum)

    def enter(self, party: Hashable) -> None:
        """A party that wanted nothing wants something."""
        self._served[party] = self.entering(party)

    def end_of_round(self, party: Hashable, amount: float) -> float:
        """The virtual time up to which others are served before the party was given so much."""
        return (round_of(self.entering(party) + amount, self._quantum) + 1) * self._quantum

    def reach(self, time: float) -> None:
        """Time moves on to that of a party whose turn it is; newcomers enter there.

        Not to that of one that is given what others cannot use: it may be far ahead, and newcomers
        would have to wait until the others are there.
        """
        self._now = max(self._now, time)

    def charge(self, party: Hashable, amount: float) -> None:
        """A party was given so much, over its weight; a correction may be negative."""
        self._served[party] = self.of(party) + amount
        if len(self._served) > MOST_REMEMBERED:
            self._forget()

    def leave(self, party: Hashable) -> None:
        """The party is gone for good."""
        self._served.pop(party, None)

    def reset(self) -> None:
        """Nobody wants anything: the past does not matter any more."""
        self._served.clear()
        self._now = 0.0

    def _forget(self) -> None:
        """Drops whoever would enter as a newcomer, and of the rest those that were seen first."""
        floor = self._now - self._quantum
        kept = [(party, served) for party, served in self._served.items() if served > floor]
        self._served = dict(kept[-MOST_REMEMBERED // 2 :])
