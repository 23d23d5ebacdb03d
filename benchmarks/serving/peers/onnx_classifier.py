"""The classifier as ONNX Runtime runs it in int8, for servers that have no engine of their own."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
# Rows that run together. More are slower, for all are padded to the longest, and on a CPU a
# larger batch gains nothing: measured for BERT-base on one core with CoLA's lengths.
CHUNK, SORTED_CHUNK = 4, 8
# Calls that a server gathers: what runs together, or, to be sorted by length, many times that.
BATCH, SORTED_BATCH = 4, 64
WAIT_MS = 1  # for company, where a server must wait for some time


class Classifier:
    """Texts to the probability of the second label, on one thread.

    Args:
        folder: with `tokenizer.json` and the graph.
        sort: whether neighbours in length run together, which no peer does by itself.
    """

    def __init__(self, folder: Path, *, sort: bool) -> None:
        self.sort = sort
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        positions = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
        self.tokenizer.enable_truncation(positions)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
        self.session = onnxruntime.InferenceSession(
            folder / "int8.onnx", options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of each text, in their order."""
        encoded = self.tokenizer.encode_batch_fast(list(texts))
        order, size = list(range(len(texts))), CHUNK
        if self.sort:
            order.sort(key=lambda place: len(encoded[place].ids))
            size = SORTED_CHUNK
        found = np.empty(len(texts), np.float32)
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            found[chunk] = self.run(*pad([encoded[place].ids for place in chunk]))
        return found.tolist()

    def run(self, ids: Ints, mask: Ints) -> Floats:
        """Probabilities [B] of ids and mask [B, S]."""
        (logits_BL,) = self.session.run(None, {"input_ids": ids, "attention_mask": mask})
        return 1 / (1 + np.exp(logits_BL[:, 0] - logits_BL[:, 1]))


def pad(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Ids and mask [B, S], S being the length of the longest row."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return ids, mask
