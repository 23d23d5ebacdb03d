"""What one core of this machine can do at most, measured, and what a token of a model costs.

The peak is that of a matrix product whose operands lie in cache, as the engine computes it, in the
time of the processor: another process beside it does not make the machine look slower. Instruction
tables would promise more than any memory, clock or library gives.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path

import torch
import torch.nn.functional as F

from bertd import families

# Operands of one product: weights of 0.6 to 2.4 MB and a few tokens, most of which a cache holds.
TOKENS, WIDTH = 256, 768
OPERATIONS = 2 * TOKENS * WIDTH * WIDTH
# Several products in every precision, and short beside starting a worker.
BUDGET_S = 0.016
TURNS = 4
TABLE_BUDGET_S = 0.25  # for people who wait for a table and compare it
CPUINFO = Path("/proc/cpuinfo")

Product = Callable[[], object]
Clock = Callable[[], float]


def operations(shape: families.EncoderShape) -> tuple[int, int]:
    """Matrix operations of a token, and those for each token that it attends to.

    A row of s tokens takes `s * (first + s * second)`: projections and feed-forward products are
    linear, attention is quadratic. Multiply and add count as two.
    """
    linear = 2 * shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.ffn)
    return linear, 4 * shape.layers * shape.hidden


def needed(shape: families.EncoderShape, lengths_B: Sequence[int], *, first_only: bool) -> int:
    """Matrix operations that answers about rows of these lengths need.

    Args:
        shape: the encoder's shape.
        lengths_B: tokens of each row.
        first_only: whether only first tokens are read: the others are keys and values of the last
            layer, and nothing more.
    """
    linear, squared = operations(shape)
    total = sum(n * (linear + n * squared) for n in lengths_B)
    if not first_only:
        return total
    token = 2 * (2 * shape.hidden**2 + 2 * shape.hidden * shape.ffn)
    return total - sum((n - 1) * (token + n * 4 * shape.hidden) for n in lengths_B)


def measure(budget_s: float = BUDGET_S) -> dict[str, float]:
    """Operations per second of the calling thread, by precision; about 3 x `budget_s` in all.

    The best of several products in several turns: whatever disturbs can only make one slower, and
    does not last.
    """
    made = products()
    fastest = dict.fromkeys(made, math.inf)
    for _ in range(TURNS):
        for precision, product in made.items():
            seconds = best(product, budget_s / TURNS, time.thread_time)
            fastest[precision] = min(fastest[precision], seconds or math.inf)
    return {precision: OPERATIONS / seconds for precision, seconds in fastest.items()}


def measure_all(cores: int, budget_s: float = TABLE_BUDGET_S) -> dict[str, float]:
    """Operations per second of so many threads together, by precision, in real time."""
    made = products()
    found = {}
    with futures.ThreadPoolExecutor(cores, initializer=alone) as threads:
        for precision, product in made.items():
            running = [threads.submit(rate, product, budget_s) for _ in range(cores)]
            found[precision] = OPERATIONS * sum(each.result() for each in running)
    return found


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name; "unknown" where the kernel does not tell."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def alone() -> None:
    """Makes the calling thread compute by itself: torch keeps a count that was read back."""
    torch.set_num_threads(1)
    torch.get_num_threads()


def limit(threads: int) -> None:
    """Lets torch use at most so many threads: a team larger than a quota spins for nothing."""
    if torch.get_num_threads() > threads:
        torch.set_num_threads(threads)


def best(product: Product, budget_s: float, clock: Clock) -> float:
    """Seconds of the fastest call, after one that pays for what is lazy."""
    product()
    began = last = clock()
    fastest = float("inf")
    while last - began < budget_s:
        product()
        now = clock()
        fastest, last = min(fastest, now - last), now
    return fastest


def rate(product: Product, budget_s: float, clock: Clock = time.perf_counter) -> float:
    """Calls per second over `budget_s`, after one that pays for what is lazy."""
    product()
    began, calls = clock(), 0
    while (passed := clock() - began) < budget_s:
        product()
        calls += 1
    return calls / passed


@torch.inference_mode()
def products() -> Mapping[str, Product]:
    """One product of each precision, by torch."""
    tokens = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    half_tokens, half_weight = tokens.bfloat16(), weight.bfloat16()
    whole_tokens = (tokens * 40).clamp(-127, 127).to(torch.int8)
    whole_weight = (weight * 40).clamp(-127, 127).to(torch.int8).t()
    return {
        "fp32": _quiet(lambda: F.linear(tokens, weight)),
        "bf16": _quiet(lambda: F.linear(half_tokens, half_weight)),
        "int8": _quiet(lambda: torch._int_mm(whole_tokens, whole_weight)),
    }


def _quiet(product: Product) -> Product:
    """The product without the bookkeeping of gradients."""

    def run() -> object:
        with torch.inference_mode():
            return product()

    return run
