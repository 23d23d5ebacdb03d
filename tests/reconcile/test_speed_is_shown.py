"""What computes, how fast, and why not faster: in the log, in metrics and in the status."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import structlog

from bertd import frames
from bertd.tokenization import tokenizer
from tests.reconcile import fakes as world
from tests.runtime import fakes


class Native(fakes.FakeWorker):
    """A worker with kernels, whose batches of 1 ms are half of what it could do."""

    facts: ClassVar[dict[str, Any]] = {
        "slotBytes": fakes.SLOT_BYTES,
        "kernels": "avx2",
        "precision": "int8",
        "peakOperationsPerSecond": {"int8": 16_000_000},
    }


class Eager(fakes.FakeWorker):
    """A worker that found no kernels for its machine."""

    facts: ClassVar[dict[str, Any]] = {
        "slotBytes": fakes.SLOT_BYTES,
        "kernels": "torch",
        "kernelsReason": "built without a compiler",
    }


async def test_a_fallback_is_logged_with_its_reason(tmp_path: Path) -> None:
    """Where torch computes for lack of kernels, the log warns once and the status says why."""
    async with world.running(tmp_path, []) as here:
        here.kind = Eager
        with structlog.testing.capture_logs() as logs:
            await here.apply(world.model())
            await here.ready("Model", "m")
        warned = [each for each in logs if each["log_level"] == "warning"]
        assert [each["reason"] for each in warned] == ["built without a compiler"]
        assert here.status("Model", "m").details["kernels"] == "torch"


async def test_kernels_are_no_news(tmp_path: Path) -> None:
    """A worker as it should be is not warned of, and has no efficiency before its first batch."""
    async with world.running(tmp_path, []) as here:
        here.kind = Native
        with structlog.testing.capture_logs() as logs:
            await here.apply(world.model())
            await here.ready("Model", "m")
        assert not [each for each in logs if each["log_level"] == "warning"]
        details = here.status("Model", "m").details
        assert details["kernels"] == "avx2"
        assert "efficiency" not in details


async def test_efficiency_is_shown_as_it_is_now(tmp_path: Path) -> None:
    """Every look sees the share of the peak that batches reached until then."""
    async with world.running(tmp_path, []) as here:
        here.kind = Native
        await here.apply(world.model())
        await here.ready("Model", "m")
        serving = here.controller._live["m"].serving
        assert serving is not None
        row = tokenizer.Encoded(np.zeros(4, np.int32), np.zeros(4, np.uint8))
        revision = serving.revision
        deadline_s = revision._clock() + 10
        call = asyncio.ensure_future(
            revision.run([row], revision.base, frames.Task.EMBED, deadline_s)
        )
        await fakes.until(lambda: bool(here.workers[-1].running))
        here.workers[-1].finish(0)
        await call
        assert here.status("Model", "m").details["efficiency"] == 0.5
        page = await here.control.list("Model", 10, "")
        assert page.objects[0].status.details["efficiency"] == 0.5
    assert here.controller.measured("m") == {}
    assert here.controller.measured("unknown") == {}
