"""The base that an adapter is trained on, read through the same checks as the daemon's."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from bertd import errors, families
from bertd.bitfit import rows
from bertd.checkpoint import files as checkpoint_files
from bertd.checkpoint import safetensors, sources
from bertd.tokenization import tokenizer

# transformers' names for dropout in the families' configs; DistilBERT has names of its own.
_DROPOUT_KEYS = ("hidden_dropout_prob", "dropout")
_ATTENTION_DROPOUT_KEYS = ("attention_probs_dropout_prob", "attention_dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A checked checkpoint: where it is, what it is called, how it cuts text into ids.

    `key_biases` are the biases that cannot change an answer, because they cancel in the softmax.
    """

    described: checkpoint_files.Base
    directory: Path
    shape: families.EncoderShape
    has_pooler: bool
    digest: str
    tokenizer_digest: str
    tokenizer: tokenizer.Tokenizer
    pad: rows.Pad
    key_biases: frozenset[str]


def load(source: str, max_length: int) -> Base:
    """Checks a base and loads its tokenizer; a relative directory is meant from here.

    Raises errors.BadArtifact where the checkpoint is not one that bertd serves.
    """
    found = sources.resolve(source if "://" in source else os.path.abspath(source))
    directory = found.root / found.inside
    opened = sources.open_checkpoint(found)
    sources.close(opened)
    described = checkpoint_files.describe({name: directory / name for name in opened})
    shape = described.shape
    return Base(
        described=described,
        directory=directory,
        shape=shape,
        has_pooler=described.has_pooler,
        digest=described.digest,
        tokenizer_digest=described.tokenizer_digest,
        tokenizer=tokenizer.Tokenizer.load(
            described.tokenizer,
            max_length=min(max_length, described.max_length),
            vocab=shape.vocab,
            token_types=shape.token_types,
        ),
        pad=rows.Pad(_pad_id(described.config.get("pad_token_id")), shape.token_types > 0),
        key_biases=frozenset(_key_biases(described)),
    )


def encoder(base: Base, dropout: float | None, *, pooler: bool) -> PreTrainedModel:
    """The encoder as transformers builds it, in fp32; `dropout` None keeps the config's own.

    Raises errors.InvalidRequest where a pooler is wanted and the checkpoint has none.
    """
    if pooler and not base.has_pooler:
        raise errors.InvalidRequest(
            "`head_input` must not be 'pooler': the base has no pooler", hint="use 'mean' or 'cls'"
        )
    config = transformers.AutoConfig.from_pretrained(base.directory, local_files_only=True)
    if dropout is not None:
        for key in (*_DROPOUT_KEYS, *_ATTENTION_DROPOUT_KEYS):
            if hasattr(config, key):
                setattr(config, key, dropout)
    model: PreTrainedModel = transformers.AutoModel.from_pretrained(
        base.directory,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
    )
    return model


def state(base: Base) -> dict[str, torch.Tensor]:
    """The encoder's tensors as its files hold them, in fp32 and on the CPU, by bare name."""
    names = families.encoder_names(base.shape)
    with safetensors.Weights.open(base.described.weights) as mapped:
        return {
            names[ours]: torch.from_numpy(np.array(mapped.array(stored)))
            for ours, stored in base.described.names.items()
            if ours in names
        }


def hidden_dropout(model: PreTrainedModel) -> float:
    """The share of values that the encoder drops between its parts while training."""
    values: Sequence[float | None] = [getattr(model.config, key, None) for key in _DROPOUT_KEYS]
    return next((value for value in values if value is not None), 0.0)


def _key_biases(described: checkpoint_files.Base) -> list[str]:
    if families.fold_refusal(described.config) is not None:
        return []
    names = families.bias_names(described.shape)
    return [theirs for ours, theirs in names.items() if ours.endswith(".key.bias")]


def _pad_id(value: object) -> int:
    return value if isinstance(value, int) else 0
