"""Whole tiny checkpoints on disk, with tokenizers, adapters, and merged transformers twins."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray

from bertd import families
from bertd.checkpoint import adapter_file
from bertd.checkpoint import files as checkpoint_files
from tests import tiny

WORDS = tuple(f"w{n}" for n in range(80))
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write(
    folder: Path, family: str = "bert", task: str = "SequenceClassification", **options: Any
) -> tiny.Tiny:
    """Saves a tiny model with a word-level tokenizer over `w0` ... `w79`; returns the model."""
    model = tiny.build(family, task, **options)
    model.model.save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate((*SPECIALS, *WORDS))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def describe(folder: Path) -> checkpoint_files.Base:
    """bertd's description of a saved checkpoint."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return checkpoint_files.describe(found)


def adapter(
    path: Path,
    base: checkpoint_files.Base,
    *,
    labels: int = 3,
    seed: int = 1,
    scale: float = 0.3,
    head_input: str = "pooler",
    kind: str = "linear",
    **options: Any,
) -> Path:
    """Saves an adapter that offsets every bias by N(0, scale)."""
    rng = np.random.default_rng(seed)
    shapes = families.tensor_shapes(base.shape)

    def normal(*size: int) -> NDArray[np.float32]:
        return (rng.standard_normal(size) * scale).astype(np.float32)

    has_pooler = base.has_pooler
    offsets = {
        name: normal(*shapes[name])
        for name in families.bias_names(base.shape)
        if has_pooler or not name.startswith("pooler.")
    }
    hidden = base.shape.hidden
    head = {"out.weight": normal(labels, hidden), "out.bias": normal(labels)}
    if kind != "linear":
        head |= {"dense.weight": normal(hidden, hidden), "dense.bias": normal(hidden)}
    adapter_file.write(
        path,
        shape=base.shape,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        head=adapter_file.Head(
            kind=kind, input=head_input, problem=options.pop("problem", "single_label")
        ),
        label_names=tuple(options.pop("label_names", [f"label{n}" for n in range(labels)])),
        offsets=offsets,
        head_tensors=head,
        **options,
    )
    return path


def merged(model: Any, loaded: adapter_file.Adapter, shape: families.EncoderShape) -> Any:
    """A copy of a BERT classifier with the adapter's offsets added and its head put in."""
    twin = copy.deepcopy(model)
    head: Mapping[str, NDArray[np.float32]] = loaded.head
    twin.classifier = torch.nn.Linear(shape.hidden, len(head["out.bias"]))
    names = families.bias_names(shape)
    state = {families.normalise(name, shape.family): name for name in twin.state_dict()}
    with torch.no_grad():
        for ours, offset in loaded.offsets.items():
            parameter = twin.get_parameter(state[names[ours]])
            parameter += torch.tensor(offset)
        twin.classifier.weight.copy_(torch.tensor(head["out.weight"]))
        twin.classifier.bias.copy_(torch.tensor(head["out.bias"]))
    return twin.eval()
