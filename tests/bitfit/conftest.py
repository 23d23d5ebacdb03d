"""A tiny seeded base with a tokenizer, and labelled text that it can learn."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

from bertd.bitfit import tables
from bertd.bitfit.config import TrainConfig

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
GOOD = ("good", "fine", "great", "lovely")
BAD = ("bad", "poor", "awful", "dull")
OTHER = tuple(f"word{n}" for n in range(64 - len(SPECIAL) - len(GOOD) - len(BAD)))


def tiny_config(**changes: object) -> transformers.BertConfig:
    """The tiny model T of the checks: 2 layers, width 24, 12 heads, 64 words, 3 labels."""
    options: dict[str, object] = {
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "num_attention_heads": 12,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "num_labels": 3,
    }
    return transformers.BertConfig(**(options | changes))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are slower with a team of threads, far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory: a bare BertModel with a pooler, and a word-level tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    transformers.BertModel(tiny_config()).save_pretrained(folder)
    words = {word: i for i, word in enumerate((*SPECIAL, *GOOD, *BAD, *OTHER))}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rows of two classes, told apart by one word."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = []
    for n in range(24):
        filler = " ".join(OTHER[(n * 5 + k) % len(OTHER)] for k in range(n % 4))
        for label, words in (("positive", GOOD), ("negative", BAD)):
            lines.append(json.dumps({"text": f"{filler} {words[n % 4]}", "label": label}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def config(base_directory: Path, data: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes configs of a quick run, with changes."""
    quick = TrainConfig(
        base=str(base_directory),
        data=data,
        evaluation=data,
        columns=tables.Columns(text="text", label="label"),
        output=tmp_path / "out.safetensors",
        epochs=4,
        batch_rows=8,
        validation=0.2,
        bias_rate=3e-2,
        head_rate=3e-2,
    )
    return lambda **changes: replace(quick, **changes)
