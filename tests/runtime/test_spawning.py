"""A process that cannot be started is a trouble that may pass, and leaves nothing open."""

import asyncio
import errno
from typing import Any

import pytest

from bertd import errors
from bertd.runtime import worker
from tests.runtime import fakes


async def test_a_spawn_that_fails_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process to spare is Temporary, so that whoever starts a worker tries again."""

    async def full(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    with pytest.raises(errors.Temporary, match="temporarily unavailable") as refusal:
        await worker.Worker.spawn(1, fakes.Bench().revision)
    assert refusal.value.reason == "SpawnFailed"
