"""A daemon listens where nobody else does, and privately where it must."""

import os
import pathlib
import socket as sockets_of_python
import stat

import grpc.aio
import pytest

from bertd import errors
from bertd.serving import sockets
from bertd.v1 import inference_pb2 as pb
from bertd.v1 import inference_pb2_grpc
from tests.serving import fakes

ROUTES = {("english", "sst2"): fakes.Route()}


async def works(address: str) -> bool:
    """Whether the daemon there answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        inputs = [pb.Input(text="a")]
        request = pb.ClassifyRequest(model="english", adapter="sst2", inputs=inputs)
        return bool((await inference_pb2_grpc.InferenceStub(channel).Classify(request)).results)


def path_of(address: str) -> pathlib.Path:
    """The path of a Unix address."""
    return pathlib.Path(address.removeprefix("unix:"))


@pytest.mark.parametrize("which", ["data", "admin"])
async def test_a_second_daemon_is_refused_and_the_first_unaffected(socket, which):
    """A port or socket in use is a clear error, and its owner serves on (checklist 48)."""
    async with fakes.running(ROUTES, socket) as daemon:
        address = getattr(daemon, which)
        second = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        with pytest.raises(errors.Conflict, match=r"another .* listens on .*stop it, or choose"):
            sockets.bind(second, address)
        await second.stop(0)
        assert await works(address)


async def test_a_socket_is_private(socket):
    """The socket has mode 0600 in a directory made with mode 0700."""
    async with fakes.running(ROUTES, socket):
        path = path_of(socket)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_binding_leaves_the_umask_alone(socket):
    """Files that the daemon makes later have their usual mode."""
    before = os.umask(0o022)
    try:
        async with fakes.running(ROUTES, socket):
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


async def test_the_socket_of_a_dead_daemon_is_replaced(socket):
    """After a crash the daemon starts again on the same path."""
    path = path_of(socket)
    path.parent.mkdir(mode=0o700)
    with sockets_of_python.socket(sockets_of_python.AF_UNIX) as dead:
        dead.bind(str(path))
    async with fakes.running(ROUTES, socket) as daemon:
        assert await works(daemon.admin)


async def test_a_daemon_can_be_followed_by_the_next(socket):
    """A daemon that stopped gives its addresses back."""
    for _ in range(2):
        async with fakes.running(ROUTES, socket) as daemon:
            assert await works(daemon.admin)


async def test_a_foreign_server_is_not_disturbed(socket):
    """A socket that some other program serves is kept, though that program knows no lock."""
    path = path_of(socket)
    path.parent.mkdir(mode=0o700)
    with sockets_of_python.socket(sockets_of_python.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        server = grpc.aio.server()
        with pytest.raises(errors.Conflict, match="another daemon listens"):
            sockets.bind(server, socket)
        await server.stop(0)
    assert path.exists()


async def test_a_file_is_not_replaced_by_a_socket(socket):
    """A wrong path destroys nothing."""
    path = path_of(socket)
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    server = grpc.aio.server()
    with pytest.raises(errors.Conflict, match="exists and is not a socket"):
        sockets.bind(server, socket)
    await server.stop(0)
    assert path.read_text() == "precious"


async def test_a_directory_that_others_may_write_is_refused(socket):
    """Nobody else may be able to put another socket in the place of ours."""
    parent = path_of(socket).parent
    parent.mkdir()
    parent.chmod(0o777)
    server = grpc.aio.server()
    with pytest.raises(errors.InvalidRequest, match="writable by nobody else"):
        sockets.bind(server, socket)
    await server.stop(0)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("unix:/tmp/" + "x" * 103, "at most 107 bytes, and has 108"),
        ("unix:relative.sock", "must be absolute"),
        ("unix:/proc/nothing/admin.sock", "cannot make the socket's directory"),
        ("localhost", "must be HOST:PORT or unix:/PATH"),
        ("localhost:", "must be HOST:PORT"),
        (":50051", "must be HOST:PORT"),
        ("localhost:http", "must be HOST:PORT"),
        ("localhost:65536", "must be HOST:PORT"),
        ("203.0.113.1:0", "cannot listen on '203.0.113.1:0'"),
        ("no.such.host.invalid:50051", "cannot listen on 'no.such.host.invalid:50051'"),
    ],
)
async def test_an_address_that_cannot_be_is_refused(target, text):
    """A wrong address is named with what is wrong about it (checklist 61)."""
    server = grpc.aio.server()
    with pytest.raises(errors.InvalidRequest, match=text):
        sockets.bind(server, target)
    await server.stop(0)
