"""What operators ask: apply, diff, get, list, watch, delete, on the store and the controller."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from bertd import errors, metrics
from bertd.manifest import parsing, spec, views, writing
from bertd.reconcile import controller, declarations, desire, diff, showing
from bertd.store import objects

Done = TypeVar("Done")


class Control:
    """Implements `serving.admin.Control`.

    Args:
        objects: the truth about what is declared.
        controller: makes it true, and knows the status of every object.
        metrics: where it is recorded whether the last manifest could be used.
    """

    def __init__(
        self,
        *,
        objects: objects.Objects,
        controller: controller.Controller,
        metrics: metrics.Metrics,
    ) -> None:
        self._objects = objects
        self._controller = controller
        self._metrics = metrics
        self._shown = showing.Showing(objects, controller.statuses, measured=controller.measured)
        self._applying = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def apply(
        self, manifest: str, file_name: str, base_dir: str, dry_run: bool
    ) -> views.ApplyOutcome:
        """Stores every object of a manifest, or none, and starts to make them true.

        Raises:
            InvalidManifest: every error of every document.
        """
        return await self._whole(self._apply(manifest, file_name, base_dir, dry_run))

    async def diff(self, manifest: str, file_name: str, base_dir: str) -> views.DiffOutcome:
        """What `apply` would change, and the operations that would follow."""
        parsed = await asyncio.to_thread(self._parse, manifest, file_name, base_dir)
        applied = await asyncio.to_thread(self._store, parsed, True)
        found = [
            await self._difference(each, result.action, parsed)
            for each, result in zip(parsed.objects, applied, strict=True)
        ]
        return views.DiffOutcome(objects=tuple(found), warnings=parsed.warnings)

    def get(self, kind: views.Kind, name: str) -> views.ObjectView:
        """One object with its status; raises NotFound."""
        return self._shown.get(kind, name)

    async def list(self, kind: views.Kind, limit: int, after: str) -> views.Page:
        """At most `limit` objects whose names follow `after`, in order of names."""
        return await self._shown.list(kind, limit, after)

    async def list_of_model(self, model: str, limit: int, after: str) -> views.Page:
        """As `list`, of the adapters of one Model."""
        return await self._shown.list_of_model(model, limit, after)

    def watch(self, kind: views.Kind | None, name: str, limit: int) -> AsyncGenerator[views.Change]:
        """Tells every object there is, then every change; raises Overloaded."""
        return self._shown.watch(kind, name, limit)

    def close(self) -> None:
        """Ends every watch."""
        self._shown.close()

    async def delete(self, kind: views.Kind, name: str) -> None:
        """Forgets an object; a Model is drained first.

        Raises:
            NotFound: nothing of that kind and name is declared.
            Conflict: an adapter that its Model declares inline.
        """
        if kind == "Adapter" and "/" in name:
            model = name.partition("/")[0]
            raise errors.Conflict(
                f"adapter '{name}' is declared inside model '{model}'",
                hint=f"remove it from `spec.adapters` of model '{model}' and apply that",
            )
        await self._whole(self._delete(kind, name))

    async def _whole(self, work: Coroutine[Any, Any, Done]) -> Done:
        """Does all of it, also when the caller goes away: what is stored is made true."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _apply(
        self, manifest: str, file_name: str, base_dir: str, dry_run: bool
    ) -> views.ApplyOutcome:
        async with self._applying:  # what was checked must still hold when it is stored
            parsed = await asyncio.to_thread(self._parse, manifest, file_name, base_dir)
            touched = await asyncio.to_thread(declarations.touched, self._objects, parsed)
            applied = await asyncio.to_thread(self._store, parsed, dry_run)
            if not dry_run:
                self._metrics.manifest_load(success=True)
                self._controller.expect(_names(parsed))
                self._tell(applied)
                self._controller.poke_some(touched)
        return views.ApplyOutcome(objects=applied, warnings=parsed.warnings)

    async def _delete(self, kind: views.Kind, name: str) -> None:
        async with self._applying:
            stored = await asyncio.to_thread(self._objects.get, kind, name)
            await asyncio.to_thread(self._objects.delete, kind, name)
            self._controller.statuses.forget(kind, name)
            if kind == "Model":
                self._controller.poke(name)
            else:
                self._controller.poke_some({str(stored.spec["model"]): {name}})

    def _tell(self, applied: Iterable[views.Applied]) -> None:
        for each in applied:
            if each.action != "unchanged":
                existed = each.action != "created"
                self._controller.statuses.watchers.tell(each.kind, each.name, existed=existed)

    def _store(self, parsed: parsing.Manifest, dry_run: bool) -> tuple[views.Applied, ...]:
        wanted = [declarations.wanted(each) for each in parsed.objects]
        return self._objects.apply_many(wanted, dry_run=dry_run)

    def _parse(self, manifest: str, file_name: str, base_dir: str) -> parsing.Manifest:
        try:
            parsed = parsing.parse(manifest, file=file_name, base_dir=base_dir or None)
            declarations.check_unique(self._objects, parsed)
        except errors.InvalidManifest:
            self._metrics.manifest_load(success=False)
            raise
        return parsed

    async def _difference(
        self, declared: parsing.Declared, action: views.Action, parsed: parsing.Manifest
    ) -> views.ObjectDiff:
        after = writing.spec_to_dict(declared.spec)
        before = await asyncio.to_thread(self._before, declared)
        if isinstance(declared.spec, spec.ModelSpec):
            planned = await self._controller.preview(
                await asyncio.to_thread(self._hypothesis, declared.name, declared.spec, parsed)
            )
        else:
            planned = tuple(str(each) for each in diff.changes(before or {}, after))
        return views.ObjectDiff(
            kind=declared.kind,
            name=declared.name,
            action=action,
            unified=await asyncio.to_thread(diff.unified, before, after, declared.name),
            plan=planned,
        )

    def _before(self, declared: parsing.Declared) -> Mapping[str, Any] | None:
        with contextlib.suppress(errors.NotFound):
            return self._objects.get(declared.kind, declared.name).spec
        return None

    def _hypothesis(
        self, name: str, declared: spec.ModelSpec, parsed: parsing.Manifest
    ) -> desire.Declared:
        """A Model as it would be, with the stored Adapters and those of the manifest."""
        stored = declarations.Declarations(self._objects).read(name)
        adapters = dict(stored.adapters) if stored else {}
        adapters |= {
            each.name: each.spec
            for each in parsed.objects
            if isinstance(each.spec, spec.AdapterSpec) and each.spec.model == name
        }
        return desire.Declared(name=name, generation=0, spec=declared, adapters=adapters)


def _names(parsed: parsing.Manifest) -> Iterator[tuple[str, str]]:
    """(model, "") or (model, adapter) for every object."""
    for each in parsed.objects:
        if isinstance(each.spec, spec.AdapterSpec):
            yield each.spec.model, each.name
        else:
            yield each.name, ""
