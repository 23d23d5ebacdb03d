"""Tools without our proto files can find and call everything, where that is enabled."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.serving import fakes

SERVICES = {
    "bertd.v1.Admin",
    "bertd.v1.Inference",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}
V1, V1ALPHA = (f"grpc.reflection.{v}.ServerReflection" for v in ("v1", "v1alpha"))


async def listed(address: str, service: str) -> set[str]:
    """The names of all services, asked the way tools ask."""
    ask = reflection_pb2.ServerReflectionRequest(list_services="*")
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/{service}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter([ask]))
        reply = await call.read()
    return {each.name for each in reply.list_services_response.service}


@pytest.mark.parametrize("service", [V1, V1ALPHA])
async def test_both_versions_list_every_service(socket, service):
    """Tools that ask for v1 and tools that ask for v1alpha get the same list."""
    async with fakes.running({}, socket) as daemon:
        assert await listed(daemon.admin, service) == SERVICES


async def test_the_data_port_reflects_only_when_enabled(socket):
    """Reflection and Admin are off on the data port unless enabled (checklist 63)."""
    async with (
        fakes.running({}, socket) as daemon,
        grpc.aio.insecure_channel(daemon.data) as channel,
    ):
        for method in (f"{V1}/ServerReflectionInfo", "bertd.v1.Admin/List"):
            error = await fakes.refusal(channel.unary_unary(f"/{method}")(b""))
            assert error.code().name == "UNIMPLEMENTED"


async def test_an_enabled_data_port_reflects_what_it_serves(socket):
    """Even then the data port knows no Admin (checklist 63)."""
    async with fakes.running({}, socket, is_reflecting=True) as daemon:
        assert await listed(daemon.data, V1) == SERVICES - {"bertd.v1.Admin"}


def classify(address: str, fields: dict[str, object]) -> dict[str, object]:
    """Calls Classify knowing nothing but its name."""
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("bertd.v1.Inference").FindMethodByName("Classify")
        kinds = (method.input_type, method.output_type)
        ask, answer = (message_factory.GetMessageClass(kind) for kind in kinds)
        call = channel.unary_unary(
            "/bertd.v1.Inference/Classify",
            request_serializer=ask.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return json_format.MessageToDict(call(json_format.ParseDict(fields, ask())))


async def test_a_reflection_client_can_classify(socket):
    """JSON in, JSON out, as `buf curl` does it: the types come from the daemon itself."""
    fields = {"model": "english", "adapter": "sst2", "inputs": [{"text": "a b"}]}
    async with fakes.running({("english", "sst2"): fakes.Route()}, socket) as daemon:
        reply = await asyncio.to_thread(classify, daemon.admin, fields)
    assert reply["results"][0]["labels"] == ["short"]
    assert reply["problemType"] == "PROBLEM_TYPE_SINGLE_LABEL"
