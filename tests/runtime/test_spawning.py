"""A process that cannot be started is a trouble that may pass, and leaves nothing open."""

import asyncio
import errno
from typing import Any

import pytest

from bertd import errors
from bertd.runtime import router, worker
from tests.runtime import fakes


async def test_a_spawn_that_fails_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process to spare is Temporary, so that whoever starts a worker tries again."""

    async def full(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    with pytest.raises(errors.Temporary, match="temporarily unavailable") as refusal:
        await worker.Worker.spawn(1, fakes.Bench().revision)
    assert refusal.value.reason == "SpawnFailed"


def test_a_typo_among_thousands_of_names_costs_nothing() -> None:
    """Few names are searched for a suggestion; thousands would block everybody's calls."""
    routes = router.Router()
    few = {f"tenant-{n}": errors.NotReady("loading") for n in range(9)}
    routes.publish("few", router.Names(routes={}, refusals=few))
    with pytest.raises(errors.NotFound, match="did you mean"):
        routes.find("few", "tenamt-3")
    many = {f"tenant-{n}": errors.NotReady("loading") for n in range(10_000)}
    routes.publish("many", router.Names(routes={}, refusals=many))
    with pytest.raises(errors.NotFound) as refusal:
        routes.find("many", "tenamt-3")
    assert not refusal.value.hint
