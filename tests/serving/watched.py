"""A Control whose objects can be watched: what a test tells is what watchers hear."""

import asyncio
from collections.abc import AsyncGenerator

from bertd import errors
from bertd.manifest import views
from tests.serving import fakes


class Control(fakes.Control):
    """Tells `told` and then whatever `tell` adds, until `close`."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[views.Change] = []
        self.refusal: errors.Error | None = None
        self.watching = 0
        self.telling = 0  # changes that a watcher has taken
        self._woken = asyncio.Condition()
        self._is_closed = False

    async def tell(self, *changes: views.Change) -> None:
        """Every watcher hears these next."""
        async with self._woken:
            self.told += changes
            self._woken.notify_all()

    async def watch(self, kind, name, limit) -> AsyncGenerator[views.Change]:
        self.asked.append(("watch", kind, name, limit))
        if self.refusal:
            raise self.refusal
        self.watching += 1
        number = 0
        try:
            while True:
                for change in self.told[number:]:
                    number += 1
                    self.telling += 1
                    yield change
                if self._is_closed:
                    return
                async with self._woken:
                    if number == len(self.told) and not self._is_closed:
                        await self._woken.wait()
        finally:
            self.watching -= 1

    def list_of_model(self, model, limit, after):
        self.asked.append(("list of model", model, limit, after))
        return views.Page(objects=(view(f"{model}/a"),))

    def close(self) -> None:
        self._is_closed = True
        self._tell = asyncio.ensure_future(self.tell())


def view(name: str, **spec: object) -> views.ObjectView:
    """An adapter without a status."""
    return views.ObjectView(
        kind="Adapter",
        name=name,
        labels={},
        generation=1,
        spec=spec,
        status=views.StatusView(
            observed_generation=1,
            conditions=(),
            versions=(views.Version(digest="sha256:d2", since="2026-01-02T00:00:00Z"),),
        ),
    )


def added(*names: str) -> views.Change:
    """These adapters are there."""
    return views.Change(type="added", objects=tuple(map(view, names)))
