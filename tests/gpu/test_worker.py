"""A worker on a GPU: what it says of itself, and that it answers."""

from pathlib import Path

import pytest

from bertd import frames
from tests import gpu
from tests.engine import test_control

pytestmark = gpu.needs_gpu


@pytest.mark.timeout(300)
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_worker_on_a_gpu(tmp_path: Path, precision: str) -> None:
    """It names its device, measures the GPU's peak, takes bf16 for `auto`, and runs a batch."""
    front = test_control.Front()
    try:
        facts = test_control.start(front, tmp_path, device="cuda", precision=precision)["ok"]
        assert facts["device"] == "cuda:0"
        assert facts["precision"] == "bf16"
        assert facts["peakOperationsPerSecond"]["bf16"] > 1e12
        assert not facts["wide"]
        assert isinstance(front.run(0), frames.Result)
    finally:
        front.close()


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """The hundredth GPU is refused for good."""
    front = test_control.Front()
    try:
        error = test_control.start(front, tmp_path, device="cuda:99")["error"]
        assert (error["kind"], error["reason"]) == ("BadArtifact", "NoCuda")
    finally:
        front.close()
