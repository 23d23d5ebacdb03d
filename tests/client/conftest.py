"""A socket path short enough for the kernel, and an environment that names no daemon."""

import pathlib
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(name="socket")
def _socket() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bertd-") as directory:
        yield f"unix:{pathlib.Path(directory, 'bertd', 'admin.sock')}"


@pytest.fixture(autouse=True)
def _no_daemon_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTD_SERVER", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
