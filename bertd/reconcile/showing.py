"""Objects as operators look at them: one, a page of them, or every change of them."""

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

from bertd.manifest import views
from bertd.reconcile import statuses, watching
from bertd.store import objects

KINDS: tuple[views.Kind, ...] = ("Model", "Adapter")


class Showing:
    """What is stored together with what was observed of it.

    No call costs more than what it returns, however many objects there are.

    Args:
        objects: what is stored.
        statuses: what was observed of it.
        measured: facts about a Model that change with every batch: shown to whoever asks, but no
            news to those who watch.
    """

    def __init__(
        self,
        objects: objects.Objects,
        statuses: statuses.Statuses,
        *,
        measured: Callable[[str], Mapping[str, object]] = lambda _: {},
    ) -> None:
        self._objects = objects
        self._statuses = statuses
        self._measured = measured

    def get(self, kind: views.Kind, name: str) -> views.ObjectView:
        """One object with its status, and with the versions of an adapter.

        Raises:
            NotFound: nothing of that kind and name is declared.
        """
        view = self._statuses.inline(name) if kind == "Adapter" else None
        view = view or self._statuses.view(self._objects.get(kind, name))
        if kind == "Model":
            return self._with_measured(view)
        model = str(view.spec["model"])
        versions = self._statuses.versions(model, name.removeprefix(f"{model}/"))
        status = dataclasses.replace(view.status, versions=versions)
        return dataclasses.replace(view, status=status)

    def _with_measured(self, view: views.ObjectView) -> views.ObjectView:
        details = {**view.status.details, **self._measured(view.name)}
        return dataclasses.replace(view, status=dataclasses.replace(view.status, details=details))

    async def list(self, kind: views.Kind, limit: int, after: str) -> views.Page:
        """At most `limit` objects whose names follow `after`, in order of names."""
        stored = await asyncio.to_thread(self._objects.list, kind, after=after, limit=limit + 1)
        inline = self._statuses.inline_after(after) if kind == "Adapter" else ()
        return self._merged(stored, inline, limit)

    async def list_of_model(self, model: str, limit: int, after: str) -> views.Page:
        """As `list`, of the adapters of one Model."""
        stored = await asyncio.to_thread(
            self._objects.list_of_model, model, after=after, limit=limit + 1
        )
        return self._merged(stored, self._statuses.inline_after(after, model), limit)

    async def watch(
        self, kind: views.Kind | None, name: str, limit: int
    ) -> AsyncGenerator[views.Change]:
        """Tells every object there is, then every change, until the daemon stops.

        Args:
            kind: what to watch; None: everything.
            name: one object of that kind, which need not exist; empty: all.
            limit: objects that are told at once.

        Raises:
            Overloaded: too many watch already.
        """
        watchers = self._statuses.watchers
        with watchers.watching(kind or "", name) as watcher:
            while not watchers.are_closed:
                async with contextlib.aclosing(self._listing(kind, name, limit)) as listing:
                    async for page in listing:
                        if watchers.are_closed:
                            return
                        yield views.Change(type="added", objects=page)
                yield views.Change(type="synced")
                while not watchers.are_closed and not watcher.missed:
                    await watcher.news()
                    for change in await self._changes(watcher.take(limit)):
                        yield change
                if watcher.missed:
                    watcher.restart()
                    yield views.Change(type="restarted")

    def close(self) -> None:
        """Ends every watch."""
        self._statuses.watchers.close()

    def _merged(
        self, stored: Sequence[objects.Stored], inline: Iterable[str], limit: int
    ) -> views.Page:
        """A page of both, from one more of each than it may have."""
        own = {each.name: each for each in stored}
        names = itertools.islice(heapq.merge(own, inline), limit + 1)
        shown = (
            self._statuses.view(own[name]) if name in own else self._statuses.inline(name)
            for name in names
        )
        found = [
            self._with_measured(view) if view.kind == "Model" else view
            for view in shown
            if view is not None
        ]
        is_more = len(found) > limit
        return views.Page(
            objects=tuple(found[:limit]), next_after=found[limit - 1].name if is_more else ""
        )

    async def _listing(
        self, kind: views.Kind | None, name: str, limit: int
    ) -> AsyncGenerator[tuple[views.ObjectView, ...]]:
        if kind and name:
            if found := await self._views([(kind, name)]):
                yield tuple(found.values())
            return
        for each in (kind,) if kind else KINDS:
            page = await self.list(each, limit, "")
            while page.objects:
                yield page.objects
                if not page.next_after:
                    break
                page = await self.list(each, limit, page.next_after)

    async def _changes(self, existed: Mapping[watching.Key, bool]) -> Sequence[views.Change]:
        """What became of these objects, which existed before or did not."""
        there = await self._views(list(existed))
        gone = [_gone(kind, name) for (kind, name), was in existed.items() if was]
        parts: tuple[tuple[views.ChangeType, list[views.ObjectView]], ...] = (
            ("added", [view for key, view in there.items() if not existed[key]]),
            ("modified", [view for key, view in there.items() if existed[key]]),
            ("deleted", [each for each in gone if (each.kind, each.name) not in there]),
        )
        return [views.Change(type=kind, objects=tuple(found)) for kind, found in parts if found]

    async def _views(self, keys: Sequence[watching.Key]) -> Mapping[watching.Key, views.ObjectView]:
        """Those of the objects that are there."""
        stored = await asyncio.to_thread(self._some, keys)
        found: dict[watching.Key, views.ObjectView] = {
            (each.kind, each.name): self._statuses.view(each) for each in stored
        }
        for kind, name in keys:
            if kind == "Adapter" and (view := self._statuses.inline(name)):
                found[kind, name] = view
        return found

    def _some(self, keys: Sequence[watching.Key]) -> Sequence[objects.Stored]:
        return [
            stored
            for each in KINDS
            for stored in self._objects.some(each, [name for kind, name in keys if kind == each])
        ]


def _gone(kind: str, name: str) -> views.ObjectView:
    return views.ObjectView(
        kind="Model" if kind == "Model" else "Adapter",
        name=name,
        labels={},
        generation=0,
        spec={},
        status=statuses.NOT_YET,
    )
