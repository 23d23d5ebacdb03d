"""What the front is told of calls that ended here, a few at a time: it has the one registry."""

import asyncio
from collections.abc import Mapping

from bertd.edge import owner as owners
from bertd.runtime import desk

REPORT_S = 0.1
EVENTS_MAX = 1024
DECIMALS = 6


class Reports:
    """Stands where `Metrics` stands in the front: every method is one event of a report."""

    def __init__(self, owner: owners.Owner) -> None:
        self._owner = owner
        self._events: list[tuple[str, list[object]]] = []
        self._due: asyncio.TimerHandle | None = None

    def request(self, **fields: str | float) -> None:
        """One finished call."""
        self._add("request", fields)

    def request_parts(self, **fields: str | float) -> None:
        """Where the time of one answered call went."""
        self._add("request_parts", fields)

    def call_without_deadline(self, **fields: str) -> None:
        """A call that got the daemon's own deadline."""
        self._add("call_without_deadline", fields)

    def shed(self, *, rows: int = 1, **fields: str | float) -> None:
        """What was refused."""
        self._add("shed", {**fields, "rows": rows})

    def send(self) -> None:
        """Reports whatever there is."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._events:
            self._owner.tell("report", events=self._events)
            self._events = []

    def _add(self, name: str, fields: Mapping[str, str | float]) -> None:
        values = (fields[key] for key in desk.REPORTED[name])
        self._events.append(
            (name, [round(v, DECIMALS) if isinstance(v, float) else v for v in values])
        )
        if len(self._events) >= EVENTS_MAX:
            self.send()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(REPORT_S, self.send)
