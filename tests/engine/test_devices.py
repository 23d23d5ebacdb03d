"""Where a base runs, decided by what torch finds; GPUs are made up here."""

import pytest
import torch

from bertd import errors
from bertd.engine import devices
from bertd.model import cuda
from bertd.runtime import devices as permits


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, capability: tuple[int, int] = (9, 0)) -> None:
    """Makes torch find so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)


@pytest.mark.parametrize(
    ("count", "declared", "precision", "found"),
    [
        (0, "auto", "auto", "cpu"),
        (0, "auto", "bf16", "cpu"),
        (0, "cpu", "int8", "cpu"),
        (1, "cpu", "bf16", "cpu"),
        (1, "auto", "auto", "cpu"),
        (1, "auto", "bf16", "cpu"),
        (1, "auto", "int8", "cpu"),
        (1, "cuda", "auto", "cuda:0"),
        (1, "cuda", "fp8", "cuda:0"),
        (2, "cuda:1", "auto", "cuda:1"),
    ],
)
def test_the_device_of_a_declaration(
    monkeypatch: pytest.MonkeyPatch, count: int, declared: str, precision: str, found: str
) -> None:
    """`auto` is the CPU beside any GPU, which was never measured; a name is taken literally."""
    gpus(monkeypatch, count)
    assert str(devices.find(declared, precision)) == found


@pytest.mark.parametrize(
    ("count", "declared", "said"),
    [
        (0, "cuda", "'cuda', but torch .* finds no GPU"),
        (0, "cuda:1", "'cuda:1', but torch .* finds no GPU"),
        (1, "cuda:1", "'cuda:1', but torch .* finds only 1 GPU"),
    ],
)
def test_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, count: int, declared: str, said: str
) -> None:
    """A GPU that torch does not find is refused for good, with what to do."""
    gpus(monkeypatch, count)
    with pytest.raises(errors.BadArtifact, match=said) as caught:
        devices.find(declared, "auto")
    assert caught.value.reason == "NoCuda"
    assert "offload.device: cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("precision", "capability", "said"),
    [("fp8", (8, 0), "capability is 8.0"), ("int8", (9, 0), "only a CPU has")],
)
def test_a_precision_that_the_gpu_has_not(
    monkeypatch: pytest.MonkeyPatch, precision: str, capability: tuple[int, int], said: str
) -> None:
    """A GPU without fp8, and int8 on any GPU, are refused by name."""
    gpus(monkeypatch, 1, capability)
    with pytest.raises(errors.BadArtifact, match=said) as caught:
        devices.find("cuda", precision)
    assert caught.value.reason == "NoSuchPrecision"


def test_the_front_keeps_as_many_batches_in_flight_as_a_worker_stages() -> None:
    """More would wait in the worker, fewer would leave the GPU waiting."""
    assert permits.GPU_PERMITS == cuda.LANES
