"""Five events to watch a batcher by."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)


class Hooks:
    """Does nothing on every event; inherit, and override those that matter.

    All are called on the batcher's loop, so they must be quick. What one raises is logged once for
    each event, and changes nothing else.
    """

    def on_start(self) -> None:
        """The batcher is open."""

    def on_schedule(self, item: object) -> None:
        """An item was accepted and waits."""

    def on_batch_start(self, items: Sequence[object]) -> None:
        """The function is called with these items."""

    def on_batch_complete(self, items: Sequence[object], results: Sequence[object]) -> None:
        """The function returned; each item has its result."""

    def on_exception(self, error: Exception) -> None:
        """A call of the function failed, or returned something else than one result per item.

        Items of such a batch run again in halves, so one bad item is seen several times.
        """


class Observers:
    """Tells every hook of an event, whatever the others raise."""

    def __init__(self, hooks: Iterable[Hooks]) -> None:
        self._hooks = tuple(hooks)
        self._failed: set[tuple[int, str]] = set()

    def tell(self, event: str, *arguments: object) -> None:
        """Calls the method of that name with copies of lists: a hook owns what it is given."""
        for at, hook in enumerate(self._hooks):
            given = (list(each) if isinstance(each, list) else each for each in arguments)
            try:
                getattr(hook, event)(*given)
            # Nothing that watches may end what it watches: not even a stray cancellation.
            except (Exception, asyncio.CancelledError):
                if (at, event) not in self._failed:
                    self._failed.add((at, event))
                    log.exception("a hook failed in %s; further failures are not logged", event)
