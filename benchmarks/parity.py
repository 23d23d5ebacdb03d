"""The packed engine against transformers fp32 on real checkpoints.

`python -m benchmarks.parity DIRECTORY...`: for each, texts and pairs from one token to the longest
row go through both; prints the largest difference over the largest expected magnitude, of logits
(or of hidden states where the checkpoint has no head) in fp32 and in bf16. Exits with 1 if fp32
differs by more than 1e-4.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from bertd import frames
from bertd.engine import session

LIMIT = 1e-4
LONG = "The cat, which nobody had fed, sat on Hamlet's mat in Oslo and thought about Wittgenstein. "
TEXTS: list[str | tuple[str, str]] = [
    "",
    "a",
    "Who wrote Hamlet?",
    LONG,
    LONG * 3,
    LONG * 9,
    LONG * 60,
    ("How many people live in Berlin?", "Berlin has 3.5 million inhabitants."),
    (LONG, LONG * 60),
]


def main() -> int:
    """Prints one line per checkpoint."""
    print("| checkpoint | architecture | rows | tokens | fp32 | bf16 |\n|---|---|---|---|---|---|")
    worst = 0.0
    for name in sys.argv[1:]:
        place = str(Path(name).resolve())
        exact = session.Session.open(place)
        rows = exact.tokenizer.encode(TEXTS, truncate=True)
        expected = oracle(place, exact, rows)
        fp32 = difference(exact, rows, expected)
        bf16 = difference(session.Session.open(place, precision="bf16"), rows, expected)
        tokens = sum(len(row.ids) for row in rows)
        architecture = exact.base.description.architecture
        shown = f"{len(rows)} | {tokens} | {fp32:.1e} | {bf16:.1e}"
        print(f"| {Path(name).name} | {architecture} | {shown} |", flush=True)
        worst = max(worst, fp32)
    return int(worst > LIMIT)


def difference(opened: session.Session, rows: list[Any], expected: list[NDArray[Any]]) -> float:
    """Runs all rows in one batch; largest difference relative to the largest magnitude."""
    head = opened.base.description.head
    task = frames.Task.EMBED
    if head is not None:
        task = frames.Task.TAG if head.input == "token" else frames.Task.CLASSIFY
    opened.base.runner.pooling = "mean"
    batch = frames.pack_rows(0, [(row.ids, row.type_ids, 0, task) for row in rows])
    vectors = opened.base.runner.run(batch).vectors
    scale = max(float(np.abs(e).max()) for e in expected)
    return max(float(np.abs(v - e).max()) / scale for v, e in zip(vectors, expected, strict=True))


@torch.inference_mode()
def oracle(place: str, opened: session.Session, rows: list[Any]) -> list[NDArray[Any]]:
    """Transformers' fp32 logits, or mean hidden states, row by row."""
    described = opened.base.description
    bare = described.head is None
    loader = transformers.AutoModel if bare else getattr(transformers, described.architecture)
    model = loader.from_pretrained(place, dtype=torch.float32).eval()
    results = []
    for row in rows:
        inputs = {"input_ids": torch.from_numpy(row.ids[None].astype(np.int64))}
        if described.shape.token_types > 1:
            inputs["token_type_ids"] = torch.from_numpy(row.type_ids[None].astype(np.int64))
        reply = model(**inputs)
        results.append((reply.logits[0] if described.head else reply[0][0].mean(0)).numpy())
    return results


if __name__ == "__main__":
    raise SystemExit(main())
