"""What operators ask: apply, diff, get, list and delete, on the store and the controller."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from bertd import errors, metrics
from bertd.manifest import parsing, spec, views, writing
from bertd.reconcile import controller, declarations, desire, diff
from bertd.store import objects


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
        self._applying = asyncio.Lock()

    async def apply(
        self, manifest: str, file_name: str, base_dir: str, dry_run: bool
    ) -> views.ApplyOutcome:
        """Stores every object of a manifest, or none, and starts to make them true.

        Raises:
            InvalidManifest: every error of every document.
        """
        async with self._applying:  # what was checked must still hold when it is stored
            parsed = await asyncio.to_thread(self._parse, manifest, file_name, base_dir)
            touched = {
                model
                for each in parsed.objects
                for model in declarations.touched(self._objects, each)
            }
            wanted = [declarations.wanted(each) for each in parsed.objects]
            applied = self._objects.apply_many(wanted, dry_run=dry_run)
        if not dry_run:
            self._metrics.manifest_load(success=True)
            self._controller.expect(_names(parsed))
            self._controller.poke(*touched)
        return views.ApplyOutcome(objects=applied, warnings=parsed.warnings)

    async def diff(self, manifest: str, file_name: str, base_dir: str) -> views.DiffOutcome:
        """What `apply` would change, and the operations that would follow."""
        parsed = await asyncio.to_thread(self._parse, manifest, file_name, base_dir)
        wanted = [declarations.wanted(each) for each in parsed.objects]
        applied = self._objects.apply_many(wanted, dry_run=True)
        found = [
            await self._difference(each, result.action, parsed)
            for each, result in zip(parsed.objects, applied, strict=True)
        ]
        return views.DiffOutcome(objects=tuple(found), warnings=parsed.warnings)

    def get(self, kind: views.Kind, name: str) -> views.ObjectView:
        """One object with its status.

        Raises:
            NotFound: nothing of that kind and name is declared.
        """
        statuses = self._controller.statuses
        inline = {view.name: view for view in statuses.inline()}
        if kind == "Adapter" and name in inline:
            return inline[name]
        return statuses.view(self._objects.get(kind, name))

    def list(self, kind: views.Kind, limit: int, after: str) -> views.Page:
        """At most `limit` objects whose names follow `after`, in order of names."""
        found = [view for view in self._views(kind) if view.name > after][: limit + 1]
        more = len(found) > limit
        return views.Page(
            objects=tuple(found[:limit]), next_after=found[limit - 1].name if more else ""
        )

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
        stored = self._objects.get(kind, name)
        self._objects.delete(kind, name)
        self._controller.statuses.forget(kind, name)
        self._controller.poke(name if kind == "Model" else str(stored.spec["model"]))

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
        before, after = None, writing.spec_to_dict(declared.spec)
        with contextlib.suppress(errors.NotFound):
            before = self._objects.get(declared.kind, declared.name).spec
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
            unified=diff.unified(before, after, declared.name),
            plan=planned,
        )

    def _hypothesis(
        self, name: str, declared: spec.ModelSpec, parsed: parsing.Manifest
    ) -> desire.Declared:
        """A Model as it would be, with the stored Adapters and those of the manifest."""
        stored = declarations.read(self._objects, name)
        adapters = dict(stored.adapters) if stored else {}
        adapters |= {
            each.name: each.spec
            for each in parsed.objects
            if isinstance(each.spec, spec.AdapterSpec) and each.spec.model == name
        }
        return desire.Declared(name=name, generation=0, spec=declared, adapters=adapters)

    def _views(self, kind: views.Kind) -> Sequence[views.ObjectView]:
        statuses = self._controller.statuses
        stored = [statuses.view(each) for each in self._objects.every(kind)]
        inline = statuses.inline() if kind == "Adapter" else []
        return sorted((*stored, *inline), key=lambda view: view.name)


def _names(parsed: parsing.Manifest) -> Iterator[tuple[str, str]]:
    """(model, "") or (model, adapter) for every object."""
    for each in parsed.objects:
        if isinstance(each.spec, spec.AdapterSpec):
            yield each.spec.model, each.name
        else:
            yield each.name, ""
