"""Tiny seeded transformers models of every family, and their weights under canonical names."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers

from bertd import families

SMALL = {"vocab_size": 99, "max_position_embeddings": 520}
WIDTHS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
DISTIL_WIDTHS = {"dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 96}

# family -> (transformers' prefix, config)
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SMALL | WIDTHS),
    "bert-gelu-new": ("Bert", SMALL | WIDTHS | {"hidden_act": "gelu_new"}),
    "roberta": ("Roberta", SMALL | WIDTHS | {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", SMALL | WIDTHS | {"type_vocab_size": 1, "pad_token_id": 1}),
    "camembert": ("Camembert", SMALL | WIDTHS | {"type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": ("DistilBert", SMALL | DISTIL_WIDTHS),
    "electra": ("Electra", SMALL | WIDTHS | {"embedding_size": 16}),
    "electra-square": ("Electra", SMALL | WIDTHS | {"embedding_size": 24}),
    "mpnet": ("MPNet", SMALL | WIDTHS),
}


@dataclass(frozen=True)
class Tiny:
    """A transformers model with every bias far from zero, and what bertd reads of it."""

    model: Any
    shape: families.EncoderShape
    layout: families.HeadLayout | None
    weights: dict[str, torch.Tensor]  # canonical names
    head: dict[str, torch.Tensor]


def build(
    family: str, task: str = "SequenceClassification", labels: int = 3, seed: int = 0, **sizes: int
) -> Tiny:
    """A seeded tiny model with biases and gains perturbed by N(0, 0.3)."""
    prefix, options = CONFIGS[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{prefix}Config")(**{**options, **sizes}, num_labels=labels)
    model = getattr(transformers, f"{prefix}For{task}")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name or "layer_norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.mul_(5.0)  # the usual 0.02 leaves attention almost uniform
    config.architectures = [type(model).__name__]
    return read(model)


def read(model: Any) -> Tiny:
    """What bertd reads of a transformers model."""
    config = model.config.to_dict()
    shape = families.shape(config)
    state = {families.normalise(k, shape.family): v for k, v in model.state_dict().items()}
    names = families.encoder_names(shape)
    layout = families.head_layout(type(model).__name__)
    return Tiny(
        model=model,
        shape=shape,
        layout=layout,
        weights={ours: state[theirs] for ours, theirs in names.items() if theirs in state},
        head={ours: state[theirs] for ours, theirs in layout.names.items()} if layout else {},
    )


def rows(
    lengths: list[int], vocab: int, token_types: int, seed: int = 0, low: int = 5
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random ids and types; ids avoid the special ones (RoBERTa counts positions by padding id)."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(low, vocab, n).astype(np.int32) for n in lengths]
    types = [(np.arange(n) >= n // 2).astype(np.uint8) * (token_types > 1) for n in lengths]
    return ids, [t.astype(np.uint8) for t in types]


@torch.inference_mode()
def oracle(model: Any, ids: np.ndarray, types: np.ndarray, token_types: int) -> Any:
    """transformers' own fp32 answer for one row, with hidden states."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor(ids[None].astype(np.int64))}
    if token_types > 1:
        inputs["token_type_ids"] = torch.tensor(types[None].astype(np.int64))
    return model(**inputs, output_hidden_states=True)
