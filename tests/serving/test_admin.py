"""An operator's calls reach whoever holds the objects, and come back whole."""

import contextlib
import json

import grpc.aio
import pytest

from bertd.serving import admin
from bertd.v1 import admin_pb2 as pb
from bertd.v1 import admin_pb2_grpc
from tests.serving import fakes


@contextlib.asynccontextmanager
async def serving(socket: str):
    """An Admin stub, the objects behind it, and the daemon."""
    async with (
        fakes.running({}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.admin) as channel,
    ):
        yield admin_pb2_grpc.AdminStub(channel), daemon.control, daemon


async def test_apply_hands_everything_over(socket):
    """Text, file name, directory and dry run arrive; actions and warnings come back."""
    request = pb.ApplyRequest(manifest="a b", file_name="f.yaml", base_dir="/d", dry_run=True)
    async with serving(socket) as (stub, control, daemon):
        reply = await stub.Apply(request)
        assert daemon.count(model="", adapter="", method="Apply", code="OK") == 1
    assert control.asked == [("apply", "a b", "f.yaml", "/d", True)]
    got = [(each.ref.kind, each.ref.name, each.action, each.generation) for each in reply.objects]
    assert got == [("Model", "a", "created", 1), ("Model", "b", "created", 1)]
    assert list(reply.warnings) == ["careful"]
    assert control.objects == {}


async def test_a_broken_manifest_is_invalid(socket):
    """The positions that the manifest room found are the status text."""
    async with serving(socket) as (stub, _, _):
        call = stub.Apply(pb.ApplyRequest(manifest="broken", file_name="f.yaml"))
        error = await fakes.refusal(call)
    assert error.code().name == "INVALID_ARGUMENT"
    assert error.details() == "f.yaml:1:1: spec: must be whole"


async def test_diff_tells_the_plan(socket):
    """The difference and the planned operations come back."""
    async with serving(socket) as (stub, control, _):
        reply = await stub.Diff(pb.DiffRequest(manifest="a", file_name="f", base_dir="/d"))
    assert control.asked == [("diff", "a", "f", "/d")]
    (each,) = reply.objects
    assert (each.ref.name, each.action, each.unified, list(each.plan)) == (
        "a",
        "created",
        "+a\n",
        ["start"],
    )


async def test_get_shows_the_object_with_its_status(socket):
    """Spec, labels, generation, conditions and details are all there."""
    async with serving(socket) as (stub, control, _):
        control.objects["Model", "a"] = fakes.model_view("a")
        ref = pb.ObjectRef(kind="Model", name="a")
        got = (await stub.Get(pb.GetRequest(ref=ref))).object
    assert (got.ref, dict(got.labels), got.generation) == (ref, {"team": "search"}, 1)
    assert json.loads(got.spec_json) == {"base": {"source": "/m"}, "maxLength": None}
    assert (got.status.revision, got.status.digest) == ("r1", "d")
    assert json.loads(got.status.details_json) == {"lanes": 2}
    (ready,) = got.status.conditions
    assert (ready.type, ready.status, ready.reason) == ("Ready", "True", "Serving")


async def test_list_is_read_page_by_page(socket):
    """Every object comes once, in order of names, however small the pages."""
    async with serving(socket) as (stub, control, _):
        for name in "dbace":
            control.objects["Model", name] = fakes.model_view(name)
        names, token = [], ""
        while True:
            page = await stub.List(pb.ListRequest(kind="Model", page_size=2, page_token=token))
            names += [each.ref.name for each in page.objects]
            token = page.next_page_token
            if not token:
                break
    assert names == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("asked", "given"), [(0, 1000), (7, 7), (5000, 1000)])
async def test_pages_are_bounded(socket, asked, given):
    """Nobody gets more than 1,000 objects at once."""
    async with serving(socket) as (stub, control, _):
        await stub.List(pb.ListRequest(kind="Adapter", page_size=asked))
    assert control.asked == [("list", "Adapter", given, "")]
    assert admin.LONGEST_PAGE == 1000


async def test_delete_forgets(socket):
    """What was deleted is gone, and deleting it again says so."""
    request = pb.DeleteRequest(ref=pb.ObjectRef(kind="Model", name="a"))
    async with serving(socket) as (stub, control, _):
        control.objects["Model", "a"] = fakes.model_view("a")
        await stub.Delete(request)
        error = await fakes.refusal(stub.Delete(request))
    assert (control.objects, error.code().name) == ({}, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Get", pb.GetRequest()),
        ("Get", pb.GetRequest(ref=pb.ObjectRef(kind="Model"))),
        ("Get", pb.GetRequest(ref=pb.ObjectRef(kind="model", name="a"))),
        ("Get", pb.GetRequest(ref=pb.ObjectRef(kind="Model", name="x" * 300))),
        ("Delete", pb.DeleteRequest(ref=pb.ObjectRef(kind="Pod", name="a"))),
        ("List", pb.ListRequest()),
        ("List", pb.ListRequest(kind="Models")),
        ("List", pb.ListRequest(kind="Model", page_size=-1)),
    ],
)
async def test_a_bad_reference_is_refused(socket, method, request_):
    """Kinds and names are checked before anybody looks for them."""
    async with serving(socket) as (stub, control, _):
        error = await fakes.refusal(getattr(stub, method)(request_))
    assert error.code().name == "INVALID_ARGUMENT"
    assert "must" in error.details()
    assert control.asked == []
