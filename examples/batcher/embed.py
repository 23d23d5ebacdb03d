"""A function of many texts becomes `await batcher.submit(text)`: what that is worth, measured.

Run it with `python examples/batcher/embed.py`. The model is one matrix that is read from memory
once per call, whatever the call holds: that is why batches pay, here as in an encoder.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine

import numpy as np
from numpy.typing import NDArray

from bertd.batcher import padding
from bertd.batcher.aio import Batcher
from bertd.batcher.hooks import Hooks
from bertd.batcher.limits import Limits

Vector = NDArray[np.float32]
SENTENCE = "a good encoder batches what it is given while it is busy"
TEXTS = [f"{i} {SENTENCE[: 5 + i % 50]}" for i in range(256)]
WIDTH = 2048
LIMITS = Limits(max_rows=32, max_tokens=4096)


class Encoder:
    """Bytes to a vector: a mean of byte embeddings through one wide layer."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.embeddings = random.standard_normal((256, WIDTH), dtype=np.float32)
        self.weight = random.standard_normal((WIDTH, WIDTH), dtype=np.float32)

    def __call__(self, texts: list[str]) -> list[Vector]:
        """One vector per text; the batch is padded, and the padding has no say."""
        packed = padding.pad([np.frombuffer(t.encode(), np.uint8) for t in texts], fill=0)
        assert packed.mask is not None
        shares = packed.mask / packed.mask.sum(axis=1, keepdims=True)
        means = np.einsum("rl,rlw->rw", shares.astype(np.float32), self.embeddings[packed.array])
        return packed.split(np.tanh(means @ self.weight))


class Sizes(Hooks):
    """Remembers how many texts each batch had."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_batch_start(self, items: object) -> None:
        """A batch begins."""
        assert isinstance(items, list)
        self.rows.append(len(items))


async def one_by_one(encoder: Encoder) -> list[Vector]:
    """As a server without batches would: a call per text, on a thread."""
    return [(await asyncio.to_thread(encoder, [text]))[0] for text in TEXTS]


async def batched(encoder: Encoder, sizes: Sizes) -> list[Vector]:
    """As many callers at once, each with a text and a deadline of its own."""
    async with Batcher(encoder, limits=LIMITS, size=len, hooks=[sizes]) as batcher:
        return await asyncio.gather(*(batcher.submit(text, timeout_s=30) for text in TEXTS))


async def timed(
    work: Callable[[], Coroutine[None, None, list[Vector]]],
) -> tuple[list[Vector], float]:
    """What it returned, and how long it took."""
    began_s = time.perf_counter()
    return await work(), time.perf_counter() - began_s


async def main() -> None:
    """Both ways, the same vectors, two times."""
    encoder, sizes = Encoder(), Sizes()
    alone, alone_s = await timed(lambda: one_by_one(encoder))
    together, together_s = await timed(lambda: batched(encoder, sizes))
    worst = max(float(np.abs(a - b).max()) for a, b in zip(alone, together, strict=True))
    print(f"{len(TEXTS)} texts one by one     {1000 * alone_s:7.1f} ms, {len(TEXTS)} calls")
    print(f"{len(TEXTS)} texts in batches     {1000 * together_s:7.1f} ms, {len(sizes.rows)} calls")
    print(f"mean texts per batch     {np.mean(sizes.rows):7.1f}")
    print(f"largest difference       {worst:.1e}")


if __name__ == "__main__":
    asyncio.run(main())
