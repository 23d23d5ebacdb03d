"""Where the daemon listens and where clients look for it, unless told otherwise.

Imports nothing of bertd. The environment and the user's id come in as arguments: only `cli`,
`client` and `daemon` read them, the id by `user_id`, which Windows clients need.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath

DATA = "127.0.0.1:50051"
METRICS = "127.0.0.1:9464"
SERVER_VARIABLE = "BERTD_SERVER"


def admin_socket(environ: Mapping[str, str], uid: int) -> str:
    """The default path of the admin socket: private to one user."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    folder = PurePosixPath(runtime, "bertd") if runtime else PurePosixPath(f"/tmp/bertd-{uid}")
    return str(folder / "admin.sock")


def state_dir(environ: Mapping[str, str], uid: int) -> str:
    """The default folder of what must survive a restart."""
    if state := environ.get("XDG_STATE_HOME", ""):
        return str(PurePosixPath(state, "bertd"))
    if home := environ.get("HOME", ""):
        return str(PurePosixPath(home, ".local", "state", "bertd"))
    return f"/var/tmp/bertd-{uid}"


def server(environ: Mapping[str, str], uid: int) -> str:
    """The gRPC target that every verb calls: `BERTD_SERVER`, else the default admin socket."""
    return target(environ.get(SERVER_VARIABLE, "") or admin_socket(environ, uid))


def own_socket(environ: Mapping[str, str], uid: int) -> str:
    """Where a daemon puts its admin socket, so that verbs with the same environment find it."""
    wanted = target(environ.get(SERVER_VARIABLE, ""))
    return wanted if wanted.startswith("unix:") else admin_socket(environ, uid)


def target(address: str) -> str:
    """A gRPC target from what people write: `/run/x.sock`, `unix:/run/x.sock` or `host:port`."""
    return f"unix:{address}" if address.startswith("/") else address


def user_id() -> int:
    """The number of the user; 0 on systems that have none."""
    return os.getuid() if sys.platform != "win32" else 0
