"""The base digest names the encoder's content and nothing about how it is packed."""

from pathlib import Path

import numpy as np
import pytest

from bertd.checkpoint import files, safetensors
from tests.checkpoint import making


def digest(path: Path) -> str:
    """The digest of a directory's base."""
    return files.describe(making.files_of(path)).digest


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """The digest of the unchanged checkpoint."""
    return digest(making.directory(tmp_path / "plain"))


def test_resharding_changes_nothing(tmp_path: Path, plain: str) -> None:
    """The same tensors in two files have the same digest, wherever the cut is."""
    for cut in (1, 7, 30):
        path = making.directory(tmp_path / str(cut))
        making.shards(path, making.weights(), cut)
        assert digest(path) == plain


@pytest.mark.parametrize("prefix", ["bert.", "0.auto_model.", "model.bert."])
def test_a_prefix_changes_nothing(tmp_path: Path, plain: str, prefix: str) -> None:
    """A task model's or a wrapper's prefix is not content."""
    tensors = {prefix + name: array for name, array in making.weights().items()}
    assert digest(making.directory(tmp_path / "m", tensors=tensors)) == plain


def test_old_norm_names_change_nothing(tmp_path: Path, plain: str) -> None:
    """Gamma and beta of 2018 are weight and bias."""
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in making.weights().items()
    }
    assert digest(making.directory(tmp_path / "m", tensors=tensors)) == plain


def test_heads_and_idle_config_keys_change_nothing(tmp_path: Path, plain: str) -> None:
    """Heads, buffers, dropout and bookkeeping are not what the encoder computes."""
    config = making.CONFIG | {"hidden_dropout_prob": 0.3, "transformers_version": "4.8.2"}
    tensors = making.weights() | {"cls.predictions.bias": np.zeros(30, np.float32)}
    assert digest(making.directory(tmp_path / "m", config=config, tensors=tensors)) == plain


def test_metadata_and_order_in_the_file_change_nothing(tmp_path: Path, plain: str) -> None:
    """The header's metadata is not content."""
    path = making.directory(tmp_path / "m")
    data = safetensors.encode(making.weights(), {"format": "np", "by": "someone"})
    path.joinpath("model.safetensors").write_bytes(data)
    assert digest(path) == plain


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 4},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-5},
    ],
)
def test_keys_that_change_results_change_it(
    tmp_path: Path, plain: str, change: dict[str, object]
) -> None:
    """Heads, activation and epsilon are part of what the encoder computes."""
    assert digest(making.directory(tmp_path / "m", config=making.CONFIG | change)) != plain


def test_one_bit_of_one_tensor_changes_it(tmp_path: Path, plain: str) -> None:
    """Any other value anywhere in the encoder is another base."""
    for name in making.weights():
        tensors = making.weights()
        flat = tensors[name].reshape(-1).view(np.uint32)
        flat[-1] ^= 1
        assert digest(making.directory(tmp_path / name, tensors=tensors)) != plain


def test_swapped_tensors_change_it(tmp_path: Path, plain: str) -> None:
    """The same bytes under other names are another base."""
    tensors = making.weights()
    query, key = (f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key"))
    tensors[query], tensors[key] = tensors[key], tensors[query]
    assert digest(making.directory(tmp_path / "m", tensors=tensors)) != plain


def test_a_missing_pooler_changes_it(tmp_path: Path, plain: str) -> None:
    """A base with a pooler and one without are two bases."""
    tensors = making.weights(pooler=False)
    assert digest(making.directory(tmp_path / "m", tensors=tensors)) != plain


def test_the_stored_precision_changes_it(tmp_path: Path, plain: str) -> None:
    """Rounded weights are other weights."""
    path = making.directory(tmp_path / "m")
    halves = {name: array.astype(np.float16) for name, array in making.weights().items()}
    path.joinpath("model.safetensors").write_bytes(safetensors.encode(halves, {}))
    assert digest(path) != plain
