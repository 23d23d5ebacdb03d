"""Folding eleven bias vectors per layer into four changes nothing."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F

from bertd import errors, families
from bertd.adapters import fold
from bertd.kernels import eager, stack
from tests import tiny

FAMILIES = ["bert", "roberta", "distilbert", "electra", "electra-square", "mpnet"]
LENGTH = 23


def biased(
    shape: families.EncoderShape, weights: Mapping[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """An unfolded post-LN encoder with every bias in its place, in the dtype of its weights."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        gain = weights[f"{name}.weight"]
        return F.layer_norm(x, gain.shape, gain, weights[f"{name}.bias"], shape.norm_eps)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), shape.heads, -1).transpose(0, 1)

    x = norm("embeddings.norm", x)
    if shape.projects:
        x = linear("embeddings.project", x)
    for i in range(shape.layers):
        name = f"layers.{i}"
        q, k, v = (split(linear(f"{name}.{part}", x)) for part in ("query", "key", "value"))
        scores = q @ k.transpose(1, 2) / (shape.hidden // shape.heads) ** 0.5
        context = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1)
        y = norm(f"{name}.attention_norm", linear(f"{name}.output", context) + x)
        up = eager.ACTIVATIONS[shape.activation](linear(f"{name}.up", y))
        x = norm(f"{name}.ffn_norm", linear(f"{name}.down", up) + y)
    return x


def folded(
    shape: families.EncoderShape, weights: Mapping[str, torch.Tensor], x: torch.Tensor
) -> torch.Tensor:
    """The same encoder through `fold`: no key, value or LayerNorm bias anywhere."""
    bias = {name: weights[name] for name in families.bias_names(shape) if name in weights}
    rows, tail = fold.fold(shape, weights.__getitem__, bias)
    silent = {
        name: torch.zeros_like(value) if name.endswith(".bias") else value
        for name, value in weights.items()
    }
    sites = stack.Sites.of(shape)
    for i in range(shape.layers):
        silent[f"layers.{i}.query.bias"] = rows[i, sites.query]
        silent[f"layers.{i}.output.bias"] = rows[i, sites.output]
        silent[f"layers.{i}.up.bias"] = rows[i, sites.up]
        silent[f"layers.{i}.down.bias"] = rows[i, sites.down]
    return biased(shape, silent, x) + tail


def inputs(shape: families.EncoderShape, dtype: torch.dtype) -> torch.Tensor:
    """Any embedding sums do: they come before the first bias."""
    generator = torch.Generator().manual_seed(7)
    return torch.randn(LENGTH, shape.embedding, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_fp64(family: str) -> None:
    """In fp64 the folded encoder equals the plain one to 1e-12."""
    model = tiny.build(family)
    weights = {name: tensor.double() for name, tensor in model.weights.items()}
    x = inputs(model.shape, torch.float64)
    plain = biased(model.shape, weights, x)
    difference = (plain - folded(model.shape, weights, x)).abs().max()
    assert float(difference) < 1e-12
    assert float(plain.abs().max()) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32(family: str) -> None:
    """In fp32 the folded encoder equals the plain one to 1e-5 relative."""
    model = tiny.build(family)
    x = inputs(model.shape, torch.float32)
    plain = biased(model.shape, model.weights, x)
    difference = (plain - folded(model.shape, model.weights, x)).abs().max()
    assert float(difference / plain.abs().max()) < 1e-5


def test_the_sum_of_offsets_folds_to_the_sum_of_folds() -> None:
    """Folding is linear in the biases, so a delta folds to a delta."""
    model = tiny.build("bert")
    weights = {name: tensor.double() for name, tensor in model.weights.items()}
    base = {name: weights[name] for name in families.bias_names(model.shape)}
    delta = {name: torch.randn_like(value) for name, value in base.items()}
    both = {name: base[name] + delta[name] for name in base}
    rows = [fold.fold(model.shape, weights.__getitem__, b)[0] for b in (base, delta, both)]
    assert torch.allclose(rows[0] + rows[1], rows[2], atol=1e-12)


def test_a_key_bias_does_not_cancel_under_rotary_positions() -> None:
    """Where scores rotate keys by position, dropping the key bias changes the answer."""
    torch.manual_seed(0)
    q, k, bias = torch.randn(5, 8), torch.randn(5, 8), torch.randn(8)
    angle = torch.arange(5)[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])

    def rotate(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, :4], x[:, 4:]
        return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), 1)

    def weights(key: torch.Tensor) -> torch.Tensor:
        return (rotate(q) @ rotate(key).T).softmax(-1)

    assert float((weights(k + bias) - weights(k)).abs().max()) > 0.05
    assert torch.allclose((q @ (k + bias).T).softmax(-1), (q @ k.T).softmax(-1), atol=1e-6)


@pytest.mark.parametrize("positions", ["relative_key", "relative_key_query"])
def test_other_positions_are_refused(positions: str) -> None:
    """A checkpoint where folding is not known to hold is refused by name, never served wrong."""
    config = tiny.build("bert").model.config.to_dict() | {"position_embedding_type": positions}
    with pytest.raises(errors.BadArtifact, match="position_embedding_type"):
        families.shape(config)


def test_pre_layer_norm_families_are_refused() -> None:
    """A pre-LN family is refused: its LayerNorm biases do not move past the residual sum."""
    config = {"model_type": "roberta-prelayernorm"}
    assert families.fold_refusal(config)
    with pytest.raises(errors.BadArtifact, match="roberta-prelayernorm"):
        families.shape(config)
