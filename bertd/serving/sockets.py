"""Where a server listens: never on an address that another process already serves.

grpc by itself would share a TCP port (`so_reuseport`) and steal a Unix socket, silently.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc.aio

from bertd import errors

UNIX = "unix:"
# sizeof(sun_path) on Linux, less its closing zero.
LONGEST_SOCKET_PATH_BYTES = 107
PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address that a server listens on; close it after the server has stopped."""

    address: str
    lock: int = -1  # descriptor of the lock beside a Unix socket

    def close(self) -> None:
        """Lets another process listen there."""
        if self.lock >= 0:
            os.close(self.lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bind(server: grpc.aio.Server, target: str) -> Listener:
    """Makes a server listen on `host:port` (port 0 picks a free one) or `unix:/path`.

    A Unix socket is private: mode 0600, in a directory (made with mode 0700) that nobody else may
    write.

    Raises:
        errors.Conflict: Another process listens there; it is not disturbed.
        errors.InvalidRequest: Nobody can listen there.
    """
    if target.startswith(UNIX):
        return _bind_socket(server, Path(target.removeprefix(UNIX).removeprefix("//")))
    host, port = _host_and_port(target)
    try:
        bound = server.add_insecure_port(target)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise _refusal(host, port)
    return Listener(address=f"{host}:{bound}")


@contextlib.contextmanager
def reserve(target: str) -> Iterator[str]:
    """Keeps `host:port` for processes of this user that share it, and yields it.

    Listens nowhere: a socket that is bound, and shared from then on, lets those in that ask for a
    shared port, and keeps out all others, another `reserve` included. Port 0 picks a free one.

    Raises:
        errors.Conflict: Another process listens there, or keeps it for its own.
        errors.InvalidRequest: Nobody can listen there.
    """
    host, port = _host_and_port(target)
    with contextlib.ExitStack() as stack:
        bound = 0
        try:
            for family, address in _resolved(host, port):
                with contextlib.suppress(_Absent):
                    kept = stack.enter_context(_reserved(family, address, bound or port))
                    bound = kept.getsockname()[1]
        except OSError:
            raise _refusal(host, port) from None
        if not bound:
            raise _refusal(host, port)
        yield f"{host}:{bound}"


class _Absent(Exception):
    """This machine has no such address."""


def _reserved(family: socket.AddressFamily, address: Any, port: int) -> socket.socket:
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address[0], port, *address[2:]))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise _Absent from None
            raise
        trial.listen(1)  # fails where anybody else has the port, shared or not
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept = socket.socket(family, socket.SOCK_STREAM)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            kept.bind(trial.getsockname())
        except OSError:
            kept.close()
            raise
        return kept


def _host_and_port(target: str) -> tuple[str, int]:
    host, colon, port = target.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65536):
        raise errors.InvalidRequest(
            f"'{target}' must be HOST:PORT or unix:/PATH", hint="for example 127.0.0.1:50051"
        )
    return host, int(port)


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """Every address of a name, with its family; `localhost` is both, as it is for grpc."""
    hosts = ("127.0.0.1", "::1") if host == "localhost" else (host.strip("[]"),)
    return [
        (family, address)
        for each in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            each, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    ]


def _refusal(host: str, port: int) -> errors.Error:
    """Why grpc could not listen, which it does not tell: the system is asked once more."""
    where = f"{host}:{port}"
    try:
        family, address = _resolved(host, port)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return errors.InvalidRequest(f"cannot listen on '{where}': {error.strerror}")
    return errors.Conflict(
        f"another process listens on '{where}'", hint="stop it, or choose another address"
    )


def _bind_socket(server: grpc.aio.Server, path: Path) -> Listener:
    _check_path(path)
    _prepare_directory(path.parent)
    lock = _lock(path)
    try:
        _remove_stale(path)
        with _private_umask():
            server.add_insecure_port(f"{UNIX}{path}")
        if stat.S_IMODE(path.stat().st_mode) != 0o600:
            raise errors.Bug(f"the socket '{path}' is not private")
    except BaseException:
        os.close(lock)
        raise
    return Listener(address=f"{UNIX}{path}", lock=lock)


def _check_path(path: Path) -> None:
    size = len(os.fsencode(path))
    if not path.is_absolute() or size > LONGEST_SOCKET_PATH_BYTES:
        raise errors.InvalidRequest(
            f"the socket path '{path}' must be absolute and have at most "
            f"{LONGEST_SOCKET_PATH_BYTES} bytes, and has {size}",
            hint="choose a shorter one, for example /run/bertd/admin.sock",
        )


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise errors.InvalidRequest(
            f"cannot make the socket's directory '{directory}': {error.strerror}"
        ) from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise errors.InvalidRequest(
            f"the socket's directory '{directory}' must be yours and writable by nobody else",
            hint="choose another, or `chmod 700` it",
        )


def _lock(path: Path) -> int:
    lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _taken(path) from None
    return lock


def _remove_stale(path: Path) -> None:
    """Removes the socket of a daemon that died; anything alive, or no socket at all, is kept."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise errors.Conflict(
            f"'{path}' exists and is not a socket", hint="remove it, or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass  # nobody takes the connection in time, but somebody holds the socket
    raise _taken(path)


def _taken(path: Path) -> errors.Conflict:
    return errors.Conflict(
        f"another daemon listens on '{path}'", hint="stop it, or choose another address"
    )


@contextlib.contextmanager
def _private_umask() -> Iterator[None]:
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
