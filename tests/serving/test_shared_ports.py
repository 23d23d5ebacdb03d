"""A port that several processes share is kept for them, and from everybody else."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from bertd import errors
from bertd.serving import sockets

HOSTS = ("127.0.0.1", "0.0.0.0", "localhost")


@asynccontextmanager
async def listening(address: str, *, is_shared: bool) -> AsyncIterator[int]:
    """A server there; yields its port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", int(is_shared))])
    try:
        with sockets.bind(server, address) as listener:
            await server.start()
            yield int(listener.address.rpartition(":")[2])
    finally:
        await server.stop(0)


@pytest.mark.parametrize("host", HOSTS)
async def test_a_reserved_port_is_free_for_those_who_share_it(host: str) -> None:
    """Port 0 picks one; edges listen on it together, come and go, and come back."""
    with sockets.reserve(f"{host}:0") as address:
        for _ in range(2):
            async with (
                listening(address, is_shared=True) as first,
                listening(address, is_shared=True) as second,
            ):
                assert address == f"{host}:{first}" == f"{host}:{second}"
                socket.create_connection(("127.0.0.1", first)).close()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("edges", [0, 1])
async def test_a_reserved_port_is_nobody_elses(host: str, edges: int) -> None:
    """A daemon without edges, and one with, are refused, whether edges listen or not.

    (checklist 48)
    """
    with sockets.reserve(f"{host}:0") as address:
        if edges:
            async with listening(address, is_shared=True):
                await refused(address)
        else:
            await refused(address)
    async with listening(address, is_shared=False):
        with pytest.raises(errors.Conflict), sockets.reserve(address):
            pass


async def refused(address: str) -> None:
    """Nobody gets it for himself."""
    with pytest.raises(errors.Conflict, match="another process listens on"):
        async with listening(address, is_shared=False):
            pass
    with (
        pytest.raises(errors.Conflict, match="another process listens on"),
        sockets.reserve(address),
    ):
        pass


async def test_a_port_is_free_again_after_its_connections() -> None:
    """What the kernel remembers of closed connections keeps nobody out."""
    with sockets.reserve("127.0.0.1:0") as address:
        async with listening(address, is_shared=True) as port:
            caller = socket.create_connection(("127.0.0.1", port))
        caller.close()
    with sockets.reserve(address) as again:
        assert again == address


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("127.0.0.1", "must be HOST:PORT"),
        ("127.0.0.1:99999", "must be HOST:PORT"),
        ("192.0.2.1:0", "cannot listen on"),
        ("no.such.host.invalid:0", "cannot listen on"),
    ],
)
def test_what_nobody_can_listen_on_is_refused(target: str, text: str) -> None:
    """An address that is not ours, or none at all, is said to be so."""
    with pytest.raises(errors.InvalidRequest, match=text), sockets.reserve(target):
        pass
