"""A daemon that is nothing but the wire: real gRPC on a real socket, objects in a dictionary."""

import json
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from bertd import errors
from bertd.manifest import parsing, writing
from bertd.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc

Context = grpc.ServicerContext


class Daemon(admin_pb2_grpc.AdminServicer, inference_pb2_grpc.InferenceServicer):
    """Keeps objects, answers every text alike, and lets the world change while a verb looks."""

    def __init__(self, address: str) -> None:
        """Listens at once."""
        self.objects: dict[tuple[str, str], admin_pb2.Object] = {}
        self._looks = 0
        self._changes: dict[int, Callable[[], object]] = {}
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.answer = inference_pb2.Classification(
            scores=[
                inference_pb2.Score(label="negative", score=0.25),
                inference_pb2.Score(label="positive", score=0.75),
            ],
            labels=["positive"],
        )
        self.problem = inference_pb2.PROBLEM_TYPE_SINGLE_LABEL
        self.requests: list[object] = []
        self.page_rows = 2
        self.news: list[tuple[str, list[admin_pb2.Object]]] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        admin_pb2_grpc.add_AdminServicer_to_server(self, self._server)
        inference_pb2_grpc.add_InferenceServicer_to_server(self, self._server)
        self._server.add_insecure_port(address)
        self._server.start()

    def stop(self) -> None:
        """Stops listening."""
        self._server.stop(None).wait()

    def Apply(self, request: admin_pb2.ApplyRequest, context: Context) -> admin_pb2.ApplyResponse:
        """Stores specs as the real one does."""
        self._may_refuse(request, context)
        declared = self._parsed(request, context)
        applied = [self._put(each, dry_run=request.dry_run) for each in declared.objects]
        return admin_pb2.ApplyResponse(objects=applied, warnings=declared.warnings)

    def Diff(self, request: admin_pb2.DiffRequest, context: Context) -> admin_pb2.DiffResponse:
        """Says what Apply would do."""
        self._may_refuse(request, context)
        objects = []
        for each in self._parsed(request, context).objects:
            applied = self._put(each, dry_run=True)
            changed = applied.action != "unchanged"
            objects.append(
                admin_pb2.ObjectDiff(
                    ref=applied.ref,
                    action=applied.action,
                    unified="--- old\n+++ new\n@@ -1 +1 @@\n-a: 1\n+a: 2\n" if changed else "",
                    plan=["load the base"] if changed else [],
                )
            )
        return admin_pb2.DiffResponse(objects=objects)

    def Get(self, request: admin_pb2.GetRequest, context: Context) -> admin_pb2.GetResponse:
        """One object."""
        self._may_refuse(request, context)
        self._looks += 1
        self._changes.pop(self._looks, lambda: None)()
        found = self.objects.get((request.ref.kind, request.ref.name))
        if found is None:
            self._abort(context, grpc.StatusCode.NOT_FOUND, f"no {request.ref.name}")
        return admin_pb2.GetResponse(object=found)

    def List(self, request: admin_pb2.ListRequest, context: Context) -> admin_pb2.ListResponse:
        """All objects of a kind."""
        self._may_refuse(request, context)
        found = [
            each
            for (kind, name), each in sorted(self.objects.items())
            if kind == request.kind and name > request.page_token
            if not request.model or _model_of(each) == request.model
        ]
        page = found[: self.page_rows]
        more = len(found) > len(page)
        token = page[-1].ref.name if more else ""
        return admin_pb2.ListResponse(objects=page, next_page_token=token)

    def Watch(
        self, request: admin_pb2.WatchRequest, context: Context
    ) -> Iterator[admin_pb2.WatchResponse]:
        """Tells `news`, and leaves."""
        self._may_refuse(request, context)
        for type_, objects in self.news:
            yield admin_pb2.WatchResponse(type=f"CHANGE_TYPE_{type_.upper()}", objects=objects)

    def Delete(
        self, request: admin_pb2.DeleteRequest, context: Context
    ) -> admin_pb2.DeleteResponse:
        """Forgets."""
        if self.objects.pop((request.ref.kind, request.ref.name), None) is None:
            self._abort(context, grpc.StatusCode.NOT_FOUND, f"no {request.ref.name}")
        return admin_pb2.DeleteResponse()

    def Classify(
        self, request: inference_pb2.ClassifyRequest, context: Context
    ) -> inference_pb2.ClassifyResponse:
        """The same answer for every text."""
        self._may_refuse(request, context)
        return inference_pb2.ClassifyResponse(
            results=[self.answer] * len(request.inputs),
            problem_type=self.problem,
            served=inference_pb2.Served(
                model=request.model, adapter=request.adapter, revision="english-1a2b"
            ),
        )

    def Tag(self, request: inference_pb2.TagRequest, context: Context) -> inference_pb2.TagResponse:
        """Every word of every text is a token, `O` but for the last: that has no label."""
        self._may_refuse(request, context)
        served = inference_pb2.Served(model=request.model, adapter=request.adapter, revision="e-1")
        reply = inference_pb2.TagResponse(label_names=["O", "B-x"], served=served)
        for each in request.inputs:
            tokens = reply.results.add().tokens
            for at, word in enumerate(each.text.split(" ")):
                tokens.add(token=word, start=2 * at, end=2 * at + len(word), label="O", score=0.5)
            tokens[-1].label = ""
        return reply

    def then(self, change: Callable[[], object], *, looks: int = 3) -> None:
        """Makes a change just before an object is looked at for the third time from now."""
        self._changes[self._looks + looks] = change

    def ready(self, kind: str, name: str) -> None:
        """Makes an object Ready."""
        set_ready(self.objects[kind, name])

    def add(self, kind: str, name: str, spec: object, **fields: object) -> admin_pb2.Object:
        """Puts an object there, of generation 1 and not Ready."""
        made = admin_pb2.Object(
            ref=admin_pb2.ObjectRef(kind=kind, name=name),
            generation=1,
            spec_json=json.dumps(spec),
            **fields,  # type: ignore[arg-type]
        )
        set_condition(made, "Ready", "False", "Loading", "reading the weights")
        self.objects[kind, name] = made
        return made

    def _put(self, each: parsing.Declared, *, dry_run: bool) -> admin_pb2.Applied:
        spec = json.dumps(writing.spec_to_dict(each.spec))
        old = self.objects.get((each.kind, each.name))
        action = "created" if old is None else "configured"
        if old is not None and old.spec_json == spec and dict(old.labels) == each.labels:
            action = "unchanged"
        generation = (old.generation if old else 0) + (action != "unchanged")
        if not dry_run and action != "unchanged":
            made = self.add(each.kind, each.name, json.loads(spec), labels=each.labels)
            made.generation = generation
        ref = admin_pb2.ObjectRef(kind=each.kind, name=each.name)
        return admin_pb2.Applied(ref=ref, action=action, generation=generation)

    def _parsed(
        self, request: admin_pb2.ApplyRequest | admin_pb2.DiffRequest, context: Context
    ) -> parsing.Manifest:
        try:
            base_dir = request.base_dir or None
            return parsing.parse(request.manifest, file=request.file_name, base_dir=base_dir)
        except errors.InvalidManifest as error:
            self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError from error

    def _may_refuse(self, request: object, context: Context) -> None:
        self.requests.append(request)
        if self.refusal is not None:
            self._abort(context, *self.refusal)

    def _abort(self, context: Context, code: grpc.StatusCode, text: str) -> None:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="Test", domain="bertd.dev"))
        status = status_pb2.Status(code=code.value[0], message=text, details=[detail])
        context.set_trailing_metadata(
            (
                ("grpc-status-details-bin", status.SerializeToString()),
                ("grpc-retry-pushback-ms", "-1"),
            )
        )
        context.abort(code, text)


def set_condition(
    shown: admin_pb2.Object, type_: str, status: str, reason: str, message: str
) -> None:
    """Replaces a condition, as observed of the object's present generation."""
    kept = [each for each in shown.status.conditions if each.type != type_]
    del shown.status.conditions[:]
    shown.status.conditions.extend(kept)
    shown.status.conditions.append(
        admin_pb2.Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message,
            last_transition_time="2026-01-02T03:04:05Z",
            observed_generation=shown.generation,
        )
    )
    shown.status.observed_generation = shown.generation


def set_ready(shown: admin_pb2.Object) -> None:
    """Everything as declared."""
    shown.status.revision = f"{shown.ref.name}-1a2b"
    shown.status.digest = "sha256:" + "ab" * 32
    set_condition(shown, "Ready", "True", "Serving", "all is well")


def _model_of(shown: admin_pb2.Object) -> str:
    return json.loads(shown.spec_json).get("model") or shown.ref.name.partition("/")[0]


def address(folder: Path) -> str:
    """Where the test's daemon listens."""
    return f"unix:{folder}/admin.sock"
