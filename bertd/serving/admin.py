"""The Admin service: an operator's requests, handed to whoever holds the objects."""

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

import grpc

from bertd import errors
from bertd.manifest import views
from bertd.serving import guard as guards
from bertd.v1 import admin_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Admin"].full_name
KINDS: tuple[views.Kind, ...] = ("Model", "Adapter")
LONGEST_PAGE = 1000
LONGEST_PAGE_BYTES = 3 * 1024 * 1024  # clients take 4 MiB unless they are told otherwise
LONGEST_CHANGE_BYTES = 1024 * 1024 - 64  # and a message around it
LONGEST_NAME = 253
FIELD_BYTES = 8  # what a message adds to an object inside it, at most
BETWEEN_TURNS = 100  # objects: a page of them must not keep callers waiting

Value = TypeVar("Value")


class Control(Protocol):
    """What the edge needs of the reconciler; each method may be a coroutine.

    All raise `errors`: InvalidManifest, NotFound, Conflict, Temporary.
    """

    def apply(
        self, manifest: str, file_name: str, base_dir: str, dry_run: bool
    ) -> views.ApplyOutcome | Awaitable[views.ApplyOutcome]:
        """Stores every object of a manifest, or none."""

    def diff(
        self, manifest: str, file_name: str, base_dir: str
    ) -> views.DiffOutcome | Awaitable[views.DiffOutcome]:
        """Says what `apply` would change."""

    def get(self, kind: views.Kind, name: str) -> views.ObjectView | Awaitable[views.ObjectView]:
        """One object with its status."""

    def list(self, kind: views.Kind, limit: int, after: str) -> views.Page | Awaitable[views.Page]:
        """At most `limit` objects whose names follow `after`, in order of names."""

    def list_of_model(
        self, model: str, limit: int, after: str
    ) -> views.Page | Awaitable[views.Page]:
        """As `list`, of the adapters of one Model."""

    def watch(self, kind: views.Kind | None, name: str, limit: int) -> AsyncGenerator[views.Change]:
        """Tells every object there is, then every change, until `close`; raises Overloaded."""

    def close(self) -> None:
        """Ends every `watch`."""

    def delete(self, kind: views.Kind, name: str) -> Awaitable[None] | None:
        """Forgets an object."""


class Admin:
    """Answers Apply, Diff, Get, List, Watch and Delete."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def apply(self, request: pb.ApplyRequest, _: guards.Call) -> pb.ApplyResponse:
        """Stores every object of a manifest, or none."""
        outcome = await _settled(
            self._control.apply(
                request.manifest, request.file_name, request.base_dir, request.dry_run
            )
        )
        return pb.ApplyResponse(
            objects=[
                pb.Applied(
                    ref=pb.ObjectRef(kind=each.kind, name=each.name),
                    action=each.action,
                    generation=each.generation,
                )
                for each in outcome.objects
            ],
            warnings=outcome.warnings,
        )

    async def diff(self, request: pb.DiffRequest, _: guards.Call) -> pb.DiffResponse:
        """Says what Apply would change."""
        outcome = await _settled(
            self._control.diff(request.manifest, request.file_name, request.base_dir)
        )
        return pb.DiffResponse(
            objects=[
                pb.ObjectDiff(
                    ref=pb.ObjectRef(kind=each.kind, name=each.name),
                    action=each.action,
                    unified=each.unified,
                    plan=each.plan,
                )
                for each in outcome.objects
            ],
            warnings=outcome.warnings,
        )

    async def get(self, request: pb.GetRequest, _: guards.Call) -> pb.GetResponse:
        """One object with its status."""
        kind, name = _ref(request.ref)
        return pb.GetResponse(object=_object(await _settled(self._control.get(kind, name))))

    async def list(self, request: pb.ListRequest, _: guards.Call) -> pb.ListResponse:
        """One page of the objects of a kind."""
        kind = _kind(request.kind, "kind")
        if request.model and kind != "Adapter":
            raise errors.InvalidRequest("`model` must be empty where `kind` is not 'Adapter'")
        limit, after = _page_size(request.page_size), request.page_token
        if request.model:
            page = await _settled(self._control.list_of_model(request.model, limit, after))
        else:
            page = await _settled(self._control.list(kind, limit, after))
        async with aclosing(_parts(page.objects, LONGEST_PAGE_BYTES)) as parts:
            objects: Sequence[pb.Object] = await anext(parts, [])
        is_cut = len(objects) < len(page.objects)
        return pb.ListResponse(
            objects=objects, next_page_token=objects[-1].ref.name if is_cut else page.next_after
        )

    async def watch(self, request: pb.WatchRequest) -> AsyncGenerator[pb.WatchResponse]:
        """Every object there is, then every change, until the caller or the daemon leaves."""
        kind = _kind(request.kind, "kind") if request.kind else None
        if len(request.name) > LONGEST_NAME or (request.name and not kind):
            raise errors.InvalidRequest(
                f"`name` must have at most {LONGEST_NAME} characters, and needs a `kind`"
            )
        limit = _page_size(request.page_size)
        async with aclosing(self._control.watch(kind, request.name, limit)) as changes:
            async for change in changes:
                type_ = f"CHANGE_TYPE_{change.type.upper()}"
                if not change.objects:
                    yield pb.WatchResponse(type=type_)
                async for part in _parts(change.objects, LONGEST_CHANGE_BYTES):
                    yield pb.WatchResponse(type=type_, objects=part)

    def close(self) -> None:
        """Ends every Watch, so that no watcher delays a server that stops."""
        self._control.close()

    async def delete(self, request: pb.DeleteRequest, _: guards.Call) -> pb.DeleteResponse:
        """Forgets an object."""
        kind, name = _ref(request.ref)
        await _settled(self._control.delete(kind, name))
        return pb.DeleteResponse()

    def handlers(self, guard: guards.Guard) -> guards.Service:
        """The service, for a server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Apply": guard.unary("Apply", pb.ApplyRequest, self.apply),
                "Diff": guard.unary("Diff", pb.DiffRequest, self.diff),
                "Get": guard.unary("Get", pb.GetRequest, self.get),
                "List": guard.unary("List", pb.ListRequest, self.list),
                "Watch": guard.watch(pb.WatchRequest, self.watch),
                "Delete": guard.unary("Delete", pb.DeleteRequest, self.delete),
            },
        )


async def _settled(value: Value | Awaitable[Value]) -> Value:
    if inspect.isawaitable(value):
        return await value
    return value


async def _parts(
    shown: Sequence[views.ObjectView], longest_bytes: int
) -> AsyncGenerator[list[pb.Object]]:
    """Messages of the objects, in parts that stay below a size; one object is always a part."""
    part: list[pb.Object] = []
    part_bytes = 0
    for number, view in enumerate(shown, 1):
        message = _object(view)
        size_bytes = message.ByteSize() + FIELD_BYTES
        if part and part_bytes + size_bytes > longest_bytes:
            yield part
            part, part_bytes = [], 0
        part.append(message)
        part_bytes += size_bytes
        if number % BETWEEN_TURNS == 0:
            await asyncio.sleep(0)
    if part:
        yield part


def _page_size(asked: int) -> int:
    if asked < 0:
        raise errors.InvalidRequest("`page_size` must be 0 (the largest page) or more")
    return min(asked or LONGEST_PAGE, LONGEST_PAGE)


def _ref(ref: pb.ObjectRef) -> tuple[views.Kind, str]:
    if not 0 < len(ref.name) <= LONGEST_NAME:
        raise errors.InvalidRequest(f"`ref.name` must have between 1 and {LONGEST_NAME} characters")
    return _kind(ref.kind, "ref.kind"), ref.name


def _kind(text: str, field: str) -> views.Kind:
    for kind in KINDS:
        if text == kind:
            return kind
    raise errors.InvalidRequest(f"`{field}` must be 'Model' or 'Adapter', and is '{text[:100]}'")


def _object(view: views.ObjectView) -> pb.Object:
    return pb.Object(
        ref=pb.ObjectRef(kind=view.kind, name=view.name),
        labels=view.labels,
        generation=view.generation,
        spec_json=json.dumps(view.spec),
        status=_status(view.status),
    )


def _status(status: views.StatusView) -> pb.Status:
    return pb.Status(
        observed_generation=status.observed_generation,
        conditions=[
            pb.Condition(
                type=each.type,
                status=each.status,
                reason=each.reason,
                message=each.message,
                last_transition_time=each.last_transition_time,
                observed_generation=each.observed_generation,
            )
            for each in status.conditions
        ],
        revision=status.revision,
        digest=status.digest,
        details_json=json.dumps(status.details),
        versions=[pb.Version(digest=each.digest, since=each.since) for each in status.versions],
    )
