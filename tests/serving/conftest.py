"""A socket path short enough for the kernel."""

import pathlib
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(name="socket")
def _socket() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bertd-") as directory:
        yield f"unix:{pathlib.Path(directory, 'run', 'admin.sock')}"
