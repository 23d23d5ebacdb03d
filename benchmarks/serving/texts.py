"""Texts as long as CoLA's sentences: words of the tokenizer's vocabulary, one token each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from benchmarks.engine import rows, workloads

SPECIALS = 2  # [CLS] and [SEP] count in CoLA's lengths
SHORTEST_WORD = 3  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The same texts as characters, for servers, and as tokens, for the engine alone."""

    texts: tuple[str, ...]
    rows: rows.Rows


def make(tokenizer: Path) -> Texts:
    """One text for each sentence of CoLA's development set, of as many tokens, shuffled.

    Args:
        tokenizer: a `tokenizer.json` of WordPiece.

    Raises:
        RuntimeError: the tokenizer splits a word that it has in its vocabulary.
    """
    rng = np.random.default_rng(0)
    lengths_B = rng.permutation(workloads.cola_lengths())
    words = _words(tokenizer)
    texts = [" ".join(rng.choice(words, length - SPECIALS)) for length in lengths_B]
    made = tokenizers.Tokenizer.from_file(str(tokenizer))
    made.no_padding()
    made.no_truncation()
    ids = [each.ids for each in made.encode_batch(texts)]
    if [len(each) for each in ids] != lengths_B.tolist():
        raise RuntimeError(f"{tokenizer} does not keep words whole")
    ids_T = np.concatenate([np.array(each, np.int32) for each in ids])
    return Texts(texts=tuple(texts), rows=rows.Rows(lengths_B=lengths_B, ids_T=ids_T))


def _words(tokenizer: Path) -> Sequence[str]:
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    return sorted(
        word
        for word in vocabulary
        if len(word) >= SHORTEST_WORD and word.isascii() and word.isalpha()
    )
