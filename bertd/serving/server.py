"""The servers of a daemon: data for applications, admin for its owner, health for probes."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from bertd.serving import admin as admins
from bertd.serving import guard as guards
from bertd.serving import health as healths
from bertd.serving import inference as inferences

LONGEST_MESSAGE_BYTES = 4 * 1024 * 1024
MOST_STREAMS = 4096
# Calls that have come and that Python has not seen. grpc ends those beyond 1,000 as CANCELLED, with
# nothing that tells the caller to come again: so it may hold what many full connections send.
MOST_PENDING = 16 * MOST_STREAMS
# A connection of the data port is renewed after this time, so that clients find new replicas and a
# daemon that leaves can be drained.
CONNECTION_AGE_MS = 30_000
CONNECTION_IDLE_MS = 300_000
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
SHORTEST_PING_INTERVAL_MS = 30_000

# grpc reads and writes in threads of its own. At equal rank each message wakes one that interrupts
# the event loop, a dozen times a call; below it, they find many messages when it sleeps. Lower
# (10: a call costs a third less) they would wait for the lanes too, which are nicer by 10: a
# refusal then takes long where all share one core (`benchmarks/serving`).
THREADS_NICE = 3
_THREADS = "/proc/self/task"

# Tools ask for v1 first; the two have the same messages.
REFLECTION_SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def data_server(
    guard: guards.Guard,
    *,
    inference: inferences.Inference,
    health: healths.Health,
    is_reflecting: bool = False,
    is_shared: bool = False,
) -> grpc.aio.Server:
    """Serves Inference and health; reflection only where it is enabled.

    `is_shared` lets other processes of the same user listen on its ports too: edges do.
    """
    server = _server(
        [
            ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
            ("grpc.max_connection_age_grace_ms", int(guards.LONGEST_DEADLINE_S * 1000)),
        ],
        is_shared=is_shared,
    )
    handlers = [inference.handlers(guard), health.handlers(guard)]
    names = [inferences.SERVICE, healths.SERVICE]
    server.add_generic_rpc_handlers([*handlers, *_reflection(names if is_reflecting else [])])
    return server


def admin_server(
    guard: guards.Guard,
    *,
    inference: inferences.Inference,
    health: healths.Health,
    admin: admins.Admin,
) -> grpc.aio.Server:
    """Serves everything: whoever reaches the socket may do anything."""
    server = _server([])
    handlers = [admin.handlers(guard), inference.handlers(guard), health.handlers(guard)]
    names = [admins.SERVICE, inferences.SERVICE, healths.SERVICE]
    server.add_generic_rpc_handlers([*handlers, *_reflection(names)])
    return server


def health_server(guard: guards.Guard, *, health: healths.Health) -> grpc.aio.Server:
    """Serves health alone, for probes that must not reach anything else."""
    server = _server([])
    server.add_generic_rpc_handlers([health.handlers(guard)])
    return server


def _server(options: Sequence[tuple[str, int]], *, is_shared: bool = False) -> grpc.aio.Server:
    with _giving_way():
        return grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(is_shared)),
                ("grpc.max_receive_message_length", LONGEST_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", MOST_STREAMS),
                ("grpc.server.max_pending_requests", MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", MOST_PENDING),
                ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_INTERVAL_MS),
                *options,
            ],
            maximum_concurrent_rpcs=4 * guards.MOST_CALLS,
        )


@contextlib.contextmanager
def _giving_way() -> Iterator[None]:
    """Ranks threads that begin within (the first server of a process starts grpc's) below ours."""
    before = set(os.listdir(_THREADS))
    yield
    for thread in map(int, set(os.listdir(_THREADS)) - before):
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            usual = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, usual + THREADS_NICE)


def _reflection(service_names: Sequence[str]) -> list[guards.Service]:
    if not service_names:
        return []
    names = [*service_names, REFLECTION_SERVICES[1]]
    servicer = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]  # stubs
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in REFLECTION_SERVICES
    ]
