"""Every precision loads, answers, says what it runs on, and refuses what it cannot."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from bertd import errors, frames
from bertd.engine import loading, session
from bertd.kernels import layout, native
from tests import checkpoints

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", ""]
# Of the largest logit, against fp32 on the same tiny model.
TOLERANCES = {"fp32": 1e-6, "bf16": 3e-2, "int8": 5e-2}


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    checkpoints.write(folder)
    return folder


def multiply(folder: Path, name: str, factor: float, column: int) -> None:
    """Changes one column of a weight of the checkpoint."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    (key,) = [key for key in tensors if key.endswith(name)]
    tensors[key][:, column] *= factor
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize("precision", loading.PRECISIONS)
def test_an_adapter_answers_in_every_precision(
    folder: Path, tmp_path: Path, precision: str
) -> None:
    """The base and an adapter, in one batch, stay near their answers in fp32."""
    path = checkpoints.adapter(tmp_path / "a.safetensors", checkpoints.describe(folder))
    answers = {}
    for each in ("fp32", precision):
        opened = session.Session.open(str(folder), precision=each)
        slot = opened.load_adapter(path)
        answers[each] = opened.classify(TEXTS, [0, slot, slot, 0])
    exact = answers["fp32"]
    error = np.abs(answers[precision] - exact).max() / np.abs(exact).max()
    assert error < TOLERANCES[precision]


@pytest.mark.parametrize("precision", loading.PRECISIONS)
def test_what_runs_is_told(folder: Path, precision: str) -> None:
    """`facts` names precision and kernels, and the weights' bytes, smaller the coarser they are."""
    base = session.Session.open(str(folder), precision=precision).base
    found = base.facts()
    assert found["precision"] == base.runner.encoder.precision == precision
    library = native.open_library()
    assert found["kernels"] == (library.isa if library else "torch")
    assert (found["kernelsReason"] == "") == (library is not None)
    wanted = torch.bfloat16 if precision == "bf16" else torch.float32
    assert base.runner.bank.dtype == base.runner.encoder.bias_dtype == wanted
    shape = base.description.shape
    assert found["slotBytes"] == wanted.itemsize * (shape.layers * 168 + shape.hidden)
    weights = layout.size_bytes(precision, shape.hidden, shape.hidden) * shape.layers
    assert found["weightBytes"] > weights


@pytest.mark.parametrize("precision", loading.PRECISIONS)
def test_without_kernels_the_reason_is_told(
    folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to keep out, native code keeps out: answers come from torch, and `facts` says why."""
    expected = session.Session.open(str(folder), precision=precision).classify(TEXTS)
    monkeypatch.setenv(native.VARIABLE, "eager")
    opened = session.Session.open(str(folder), precision=precision)
    found = opened.base.facts()
    assert (found["kernels"], found["kernelsReason"]) == (loading.EAGER, "BERTD_KERNELS=eager")
    error = np.abs(opened.classify(TEXTS) - expected).max() / np.abs(expected).max()
    assert error < TOLERANCES[precision] + 1e-5


@pytest.mark.parametrize("precision", ["", "fp16", "INT8", "int4"])
def test_unknown_precisions_are_refused(folder: Path, precision: str) -> None:
    """What is no precision is named together with what is."""
    with pytest.raises(errors.InvalidRequest, match="one of auto, fp32, bf16, int8, got"):
        session.Session.open(str(folder), precision=precision)


def test_weights_that_cannot_be_quantised_are_named(folder: Path) -> None:
    """A checkpoint with an infinite weight does not load in int8; the weight is named."""
    multiply(folder, "layer.1.intermediate.dense.weight", float("inf"), 3)
    with pytest.raises(errors.BadArtifact, match=r"`layers\.1\.up\.weight`: .*infinite"):
        session.Session.open(str(folder), precision="int8")


@pytest.mark.parametrize("kernels", ["auto", "eager"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("part", ["intermediate.dense", "attention.self.query", "output.dense"])
def test_outlier_columns(
    folder: Path, precision: str, kernels: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight column 1e4 times as large leaves answers finite and near those of fp32."""
    multiply(folder, f"layer.0.{part}.weight", 1e4, 2)
    exact = session.Session.open(str(folder)).classify(TEXTS)
    monkeypatch.setenv(native.VARIABLE, kernels)
    got = session.Session.open(str(folder), precision=precision).classify(TEXTS)
    assert np.isfinite(got).all()
    assert np.abs(got - exact).max() < 0.1 * np.abs(exact).max()


def test_threads_reach_the_kernels(folder: Path) -> None:
    """A batch that asks for several threads is answered as one that asks for one."""
    engine = session.Session.open(str(folder), precision="int8").base.runner
    ids = np.arange(5, 45, dtype=np.int32)
    row = (ids, np.zeros(40, np.uint8), 0, frames.Task.EMBED)
    one, two = (engine.run(frames.pack_rows(1, [row], threads)).vectors[0] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
