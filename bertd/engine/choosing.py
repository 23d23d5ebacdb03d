"""`precision: auto`: what is faster here, measured once per machine and model, and remembered.

Without accuracy measured on a user's data, only precisions that round are candidates, never those
that quantise: fp32 or bf16. A stack of two layers of the model's shape with made-up weights is
timed on one thread; speed does not depend on values, and never are two copies of a model in memory.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bertd import families
from bertd.checkpoint import files as checkpoint_files
from bertd.engine import peak
from bertd.kernels import native, stack
from bertd.model import encoder, packing

log = logging.getLogger("bertd.engine")

EXACT, ROUNDED = "fp32", "bf16"
CANDIDATES = (EXACT, ROUNDED)
# bf16 is chosen where it is faster by more than this at both sizes; less is noise.
LEAST_GAIN = 1.10
SIZES_TOKENS = (64, 512)
ROW_TOKENS = 32
REPEATS = 3
MEASURED_LAYERS = 2
MEASURED_VOCABULARY = 64
RECORD_MAX_BYTES = 1 << 16
RECORDS_MAX = 256  # that are kept; one for each base, machine and version

Seconds = Mapping[str, Mapping[int, float]]  # by precision, by tokens of the batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A precision, and why: "" where the declaration says it."""

    precision: str
    reason: str = ""


def decide(seconds: Seconds) -> Chosen:
    """The faster one, if it is so for small batches as well as for large ones."""
    gains = [seconds[EXACT][size] / seconds[ROUNDED][size] for size in SIZES_TOKENS]
    precision = ROUNDED if min(gains) > LEAST_GAIN else EXACT
    told = ", ".join(f"{g:.2f}x at {n} tokens" for g, n in zip(gains, SIZES_TOKENS, strict=True))
    return Chosen(precision=precision, reason=f"auto: speed of bf16 against fp32 {told}")


def resolve(
    precision: str,
    description: checkpoint_files.Base,
    directory: Path | None,
    *,
    measure: Callable[[], Seconds] | None = None,
) -> Chosen:
    """The precision to load a base in.

    Args:
        precision: as declared; anything but auto stands.
        description: the base.
        directory: where measurements are remembered; None, or one that cannot be read or written,
            means to measure at every start.
        measure: times the candidates; by default `measured`, on the calling thread.
    """
    if precision != "auto":
        return Chosen(precision=precision)
    library = native.open_library()
    key = {
        "base": description.digest,
        "processor": peak.processor(),
        "kernels": library.isa if library else encoder.EAGER,
        "bertd": importlib.metadata.version("bertd"),
        "torch": torch.__version__,
    }
    seconds = _remembered(directory, key)
    if seconds is None:
        seconds = (measure or functools.partial(measured, description.shape))()
        _remember(directory, key, seconds)
    return decide(seconds)


def measured(shape: families.EncoderShape) -> Seconds:
    """Seconds of a batch of each size in each candidate, the best of some."""
    return {precision: _timed(shape, precision) for precision in CANDIDATES}


@torch.inference_mode()
def _timed(shape: families.EncoderShape, precision: str) -> dict[int, float]:
    small = dataclasses.replace(
        shape, layers=min(shape.layers, MEASURED_LAYERS), vocab=MEASURED_VOCABULARY
    )
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(size, generator=generator) * 0.02
        for name, size in families.tensor_shapes(small).items()
    }
    built = encoder.Encoder(small, weights, precision)
    del weights
    rows_SLW = torch.zeros(1, small.layers, stack.row_width(small), dtype=built.bias_dtype)
    tail_SD = torch.zeros(1, small.hidden, dtype=built.bias_dtype)
    found = {}
    for size in SIZES_TOKENS:
        batch = _batch(small, size)
        built.forward(batch, rows_SLW, tail_SD)
        found[size] = min(_seconds(built, batch, rows_SLW, tail_SD) for _ in range(REPEATS))
    return found


def _seconds(
    built: encoder.Encoder,
    batch: packing.PackedBatch,
    rows_SLW: torch.Tensor,
    tail_SD: torch.Tensor,
) -> float:
    began_s = time.thread_time()
    built.forward(batch, rows_SLW, tail_SD)
    return max(time.thread_time() - began_s, 1e-9)


def _batch(shape: families.EncoderShape, tokens: int) -> packing.PackedBatch:
    length = min(ROW_TOKENS, shape.max_tokens)
    rows = max(1, tokens // length)
    zeros = np.zeros(rows * length, np.int32)
    return packing.pack(
        ids_T=zeros,
        types_T=zeros.astype(np.uint8),
        lengths_B=np.full(rows, length, np.int32),
        slots_B=np.zeros(rows, np.int32),
        position_offset=shape.position_offset,
    )


def _path(directory: Path, key: Mapping[str, str]) -> Path:
    text = json.dumps(key, sort_keys=True).encode()
    return directory / f"{hashlib.sha256(text).hexdigest()}.json"


def _remembered(directory: Path | None, key: Mapping[str, str]) -> Seconds | None:
    """What was measured before; None where it was not, or cannot be trusted."""
    if directory is None:
        return None
    try:
        with _path(directory, key).open("rb") as file:
            record = json.loads(file.read(RECORD_MAX_BYTES))
        seconds = {
            precision: {
                size: float(record["seconds"][precision][str(size)]) for size in SIZES_TOKENS
            }
            for precision in CANDIDATES
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("the remembered precision cannot be read, it is measured again: %s", error)
        return None
    is_sound = all(0 < value < 1e6 for sizes in seconds.values() for value in sizes.values())
    return seconds if is_sound and record.get("key") == dict(key) else None


def _remember(directory: Path | None, key: Mapping[str, str], seconds: Seconds) -> None:
    """Writes a whole file or none; a disk that does not take it costs measuring again, no more."""
    if directory is None:
        return
    path = _path(directory, key)
    begun = path.with_suffix(f".{os.getpid()}")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        begun.write_text(json.dumps({"key": dict(key), "seconds": seconds}, indent=1))
        begun.replace(path)
        _forget_oldest(directory)
    except OSError as error:
        log.warning("the chosen precision cannot be remembered, every start measures: %s", error)
        with contextlib.suppress(OSError):
            begun.unlink(missing_ok=True)


def _forget_oldest(directory: Path) -> None:
    """Keeps the directory small: what is forgotten is measured again."""
    with contextlib.suppress(FileNotFoundError):  # another worker wrote or forgot at the same time
        records = sorted(directory.iterdir(), key=lambda each: each.stat().st_mtime)
        for record in records[:-RECORDS_MAX]:
            record.unlink(missing_ok=True)
