"""The operator's client: what the command line's verbs call.

    with AdminClient() as daemon:
        outcome = daemon.apply(text, file_name="models.yaml", base_dir="/srv/models")
        for applied in outcome.objects:
            print(applied.kind, applied.name, applied.action)

Every method raises `failure.CallError`; `error.unreachable` tells an absent daemon.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import grpc

from bertd.client import channel, failure
from bertd.v1 import admin_pb2, admin_pb2_grpc

DEFAULT_ADMIN_TIMEOUT_S = 30.0
PAGE_ROWS = 500

Request = TypeVar("Request")
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One observation: `status` is "True", "False" or "Unknown"; times are RFC 3339, UTC."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: str
    observed_generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A file that an adapter served from `since` on; `digest` is its sha256."""

    digest: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the daemon observes of an object; `details` are further facts (bytes, lanes, ...).

    `versions` of an adapter come newest first, and only from `get`.
    """

    observed_generation: int
    conditions: tuple[Condition, ...]
    revision: str
    digest: str
    details: dict[str, object]
    versions: tuple[Version, ...] = ()

    def condition(self, type_: str) -> Condition | None:
        """The condition of that type, such as "Ready"; None before its first observation."""
        return next((each for each in self.conditions if each.type == type_), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """A declared object; `spec` has every default written out."""

    kind: str
    name: str
    labels: dict[str, str]
    generation: int
    spec: dict[str, object]
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What apply did to one object: `action` is "created", "configured" or "unchanged"."""

    kind: str
    name: str
    action: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What apply did, or with a dry run would do."""

    objects: tuple[Applied, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDiff:
    """What apply would change in one object; `unified` is empty when nothing."""

    kind: str
    name: str
    action: str
    unified: str
    plan: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What apply would change, object by object."""

    objects: tuple[ObjectDiff, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What `watch` tells: `type` is "added", "modified", "deleted", "synced" or "restarted".

    First all objects are "added", until "synced"; then come changes. Of "deleted" objects only kind
    and name are known. After "restarted" nothing that was told counts, and all are "added" again.
    """

    type: str
    objects: tuple[Object, ...]


class AdminClient:
    """A synchronous client of one daemon's `Admin` service; close it, or use it in `with`.

    Nothing is retried: a verb that fails says so at once, also when no daemon runs.
    """

    def __init__(
        self, address: str | None = None, *, timeout_s: float = DEFAULT_ADMIN_TIMEOUT_S
    ) -> None:
        self.address = channel.admin_target(address)
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(self.address, options=channel.options())
        self._stub = admin_pb2_grpc.AdminStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def apply(
        self, manifest: str, *, file_name: str = "-", base_dir: str = "", dry_run: bool = False
    ) -> Outcome:
        """Declare every object of a YAML text, or none; `base_dir` anchors relative sources."""
        request = admin_pb2.ApplyRequest(
            manifest=manifest, file_name=file_name, base_dir=base_dir, dry_run=dry_run
        )
        reply = self._call(self._stub.Apply, request)
        return Outcome(
            objects=tuple(
                Applied(
                    kind=each.ref.kind,
                    name=each.ref.name,
                    action=each.action,
                    generation=each.generation,
                )
                for each in reply.objects
            ),
            warnings=tuple(reply.warnings),
        )

    def diff(self, manifest: str, *, file_name: str = "-", base_dir: str = "") -> Difference:
        """What `apply` of the same text would change."""
        request = admin_pb2.DiffRequest(manifest=manifest, file_name=file_name, base_dir=base_dir)
        reply = self._call(self._stub.Diff, request)
        return Difference(
            objects=tuple(
                ObjectDiff(
                    kind=each.ref.kind,
                    name=each.ref.name,
                    action=each.action,
                    unified=each.unified,
                    plan=tuple(each.plan),
                )
                for each in reply.objects
            ),
            warnings=tuple(reply.warnings),
        )

    def get(self, kind: str, name: str) -> Object:
        """One object ("Model" or "Adapter"); NOT_FOUND where none is declared."""
        ref = admin_pb2.ObjectRef(kind=kind, name=name)
        return _object(self._call(self._stub.Get, admin_pb2.GetRequest(ref=ref)).object)

    def list(self, kind: str, *, model: str = "") -> Iterator[Object]:
        """Every object of a kind, in name order; with `model`, only adapters of that one."""
        for page in self.pages(kind, model=model):
            yield from page

    def pages(self, kind: str, *, model: str = "") -> Iterator[tuple[Object, ...]]:
        """As `list`, in the pages that are read; the next one is asked for when it is wanted."""
        token = ""
        while True:
            request = admin_pb2.ListRequest(
                kind=kind, page_size=PAGE_ROWS, page_token=token, model=model
            )
            reply = self._call(self._stub.List, request)
            yield tuple(map(_object, reply.objects))
            token = reply.next_page_token
            if not token:
                return

    def watch(
        self, kind: str = "", name: str = "", *, timeout_s: float | None = None
    ) -> Iterator[Change]:
        """Everything there is, then every change; ends when the daemon does.

        Whoever wants to go on then watches again, and is told everything again.

        Args:
            kind: "Model" or "Adapter"; empty: both.
            name: one object of that kind, which need not exist; empty: all.
            timeout_s: DEADLINE_EXCEEDED after so long; None: never.
        """
        request = admin_pb2.WatchRequest(kind=kind, name=name, page_size=PAGE_ROWS)
        call = self._stub.Watch(request, timeout=timeout_s)
        try:
            for message in call:
                yield _change(message)
        except grpc.RpcError as error:
            raise failure.from_rpc_error(error, address=self.address) from error
        finally:
            call.cancel()

    def delete(self, kind: str, name: str) -> None:
        """Forget one object; NOT_FOUND where none is declared."""
        ref = admin_pb2.ObjectRef(kind=kind, name=name)
        self._call(self._stub.Delete, admin_pb2.DeleteRequest(ref=ref))

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Reply], request: object) -> Reply:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise failure.from_rpc_error(error, address=self.address) from error


def _change(message: admin_pb2.WatchResponse) -> Change:
    type_ = admin_pb2.ChangeType.Name(message.type).removeprefix("CHANGE_TYPE_").lower()
    return Change(type=type_, objects=tuple(map(_object, message.objects)))


def _object(message: admin_pb2.Object) -> Object:
    return Object(
        kind=message.ref.kind,
        name=message.ref.name,
        labels=dict(message.labels),
        generation=message.generation,
        spec=json.loads(message.spec_json or "{}"),
        status=_status(message.status),
    )


def _status(message: admin_pb2.Status) -> Status:
    return Status(
        observed_generation=message.observed_generation,
        conditions=tuple(
            Condition(
                type=each.type,
                status=each.status,
                reason=each.reason,
                message=each.message,
                last_transition_time=each.last_transition_time,
                observed_generation=each.observed_generation,
            )
            for each in message.conditions
        ),
        revision=message.revision,
        digest=message.digest,
        details=json.loads(message.details_json or "{}"),
        versions=tuple(Version(digest=each.digest, since=each.since) for each in message.versions),
    )
