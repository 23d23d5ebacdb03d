"""The Admin service: an operator's requests, handed to whoever holds the objects."""

import inspect
import json
from collections.abc import Awaitable
from typing import Protocol, TypeVar

import grpc

from bertd import errors
from bertd.manifest import views
from bertd.serving import guard as guards
from bertd.v1 import admin_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Admin"].full_name
KINDS: tuple[views.Kind, ...] = ("Model", "Adapter")
LONGEST_PAGE = 1000
LONGEST_NAME = 253

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

    def delete(self, kind: views.Kind, name: str) -> Awaitable[None] | None:
        """Forgets an object."""


class Admin:
    """Answers Apply, Diff, Get, List and Delete."""

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
        if request.page_size < 0:
            raise errors.InvalidRequest("`page_size` must be 0 (the largest page) or more")
        limit = min(request.page_size or LONGEST_PAGE, LONGEST_PAGE)
        page = await _settled(self._control.list(kind, limit, request.page_token))
        return pb.ListResponse(
            objects=[_object(each) for each in page.objects], next_page_token=page.next_after
        )

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
                "Delete": guard.unary("Delete", pb.DeleteRequest, self.delete),
            },
        )


async def _settled(value: Value | Awaitable[Value]) -> Value:
    if inspect.isawaitable(value):
        return await value
    return value


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
    )
