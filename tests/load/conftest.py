"""A server that answers bytes, as a test says."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]
Serve = Callable[..., contextlib.AbstractAsyncContextManager[str]]


@pytest.fixture(name="serve")
def _serve() -> Serve:
    """Serves Classify by a function; gives the address. Over TCP every connection is a peer."""

    @contextlib.asynccontextmanager
    async def serve(handler: Handler, *, tcp: bool = False) -> AsyncIterator[str]:
        with tempfile.TemporaryDirectory(prefix="bertd-") as folder:
            address = f"unix:{Path(folder, 's')}"
            server = grpc.aio.server()
            methods = {"Classify": grpc.unary_unary_rpc_method_handler(handler)}
            service = grpc.method_handlers_generic_handler("bertd.v1.Inference", methods)
            server.add_generic_rpc_handlers((service,))
            port = server.add_insecure_port("127.0.0.1:0" if tcp else address)
            await server.start()
            try:
                yield f"127.0.0.1:{port}" if tcp else address
            finally:
                await server.stop(None)

    return serve
