"""Model T of the reference checks, its fine-tuned twins, and BitInfer's files made with torch."""

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from numpy.typing import NDArray

from bertd.interchange import tensors

TEXTS = ["w1 w2 w3", "w7", "", "w40 w41 w2 w2 w9 w11 w30", "w3 w2 w1"]
LABELS = ("no", "maybe", "yes")
T = {
    "vocab_size": 64,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def save_tokenizer(folder: Path, words: int = 59) -> None:
    """A word-level tokenizer over `w0` and so on."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(words))]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    made.save(str(folder / "tokenizer.json"))


def model_t(labels: int = 3) -> Any:
    """BertForSequenceClassification of 2 layers, seed 0, every bias perturbed by N(0, 0.3)."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**T, num_labels=labels)
    model = transformers.BertForSequenceClassification(config).eval()
    return moved(model, seed=0, head=False)


def moved(model: Any, seed: int, *, head: bool = True, only: str = "bias") -> Any:
    """A copy with the encoder's biases moved by N(0, 0.3), and a new head."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            is_head = "classifier" in name
            if (is_head and head) or (not is_head and name.endswith("bias") and only in name):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return twin


def save(folder: Path, model: Any) -> Path:
    """A checkpoint with its tokenizer; returns the folder."""
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def parts(base: Any, tuned: Any) -> dict[str, dict[str, torch.Tensor]]:
    """What BitInfer saves: differences of the encoder's biases, and the classifier itself."""
    before = dict(base.named_parameters())
    offsets = {
        name: (after - before[name]).detach().requires_grad_()
        for name, after in tuned.named_parameters()
        if name.endswith("bias") and "classifier" not in name
    }
    head = {
        name: torch.nn.Parameter(after.detach().clone())
        for name, after in tuned.named_parameters()
        if "classifier" in name
    }
    return {"offsets": offsets, "classifier": head}


def saved(value: Any, **options: Any) -> bytes:
    """The bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def found(value: Mapping[str, Mapping[str, torch.Tensor]]) -> tensors.Found:
    """What the reading process answers for such a file."""
    flat = {
        f"{section}/{name}": tensor.detach()
        for section, named in value.items()
        for name, tensor in named.items()
    }
    return tensors.Found(
        arrays={name: tensor.float().numpy() for name, tensor in flat.items()},
        dtypes={
            name: str(tensor.dtype).removeprefix("torch.")
            for name, tensor in flat.items()
            if not tensor.is_floating_point()
        },
    )


@torch.inference_mode()
def logits(model: Any, folder: Path) -> NDArray[np.float32]:
    """transformers' own answers to TEXTS, one text at a time."""
    cut = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [
        model(input_ids=torch.tensor([cut.encode(text).ids])).logits[0].numpy() for text in TEXTS
    ]
    return np.stack(rows)
