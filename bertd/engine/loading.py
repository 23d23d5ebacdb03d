"""From a base's files to something that runs: description, encoder, bank, runner."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertd import errors, families
from bertd.adapters import bank as banks
from bertd.checkpoint import adapter_file, safetensors
from bertd.checkpoint import files as checkpoint_files
from bertd.engine import runner
from bertd.model import encoder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBase:
    """A base in memory, warmable and ready for adapters."""

    description: checkpoint_files.Base
    runner: runner.Runner
    precision: str

    def facts(self) -> dict[str, Any]:
        """What `describe` shows of a running revision; JSON values."""
        return {
            "precision": self.precision,
            "weightBytes": self.runner.encoder.weight_bytes,
            "slotBytes": self.runner.bank.table.slot_bytes,
            "slots": self.runner.bank.table.slots,
            "kernels": "torch",
            "torch": torch.__version__,
        }


def load_base(
    files: Mapping[str, Path], *, precision: str = "auto", pooling: str | None = None
) -> LoadedBase:
    """Opens a base and prepares its encoder, with slot 0 answering for the base alone.

    Args:
        files: name within the checkpoint -> path of a file that nobody changes.
        precision: fp32, bf16, or auto: without a gate, auto stays exact where it serves.
        pooling: mean, max, cls or pooler; None is what the checkpoint declares.

    Raises:
        BadArtifact: a file is not what it must be.
    """
    description = checkpoint_files.describe(files)
    chosen = "fp32" if precision == "auto" else precision
    dtype = DTYPES[chosen]
    mapped = safetensors.Weights.open(description.weights)
    weight = _reader(description, mapped)
    names = [n for n in families.encoder_names(description.shape) if n in description.names]
    shared = {name: weight(name) for name in names}
    bank = banks.Bank(
        description.shape,
        weight,
        dtype=dtype,
        has_pooler=description.has_pooler,
        base_head=_base_head(description, mapped),
    )
    return LoadedBase(
        description=description,
        runner=runner.Runner(
            encoder.Encoder(description.shape, shared, dtype),
            bank,
            _checked_pooling(pooling or description.pooling.mode, description),
        ),
        precision=chosen,
    )


def _reader(
    description: checkpoint_files.Base, mapped: safetensors.Weights
) -> Callable[[str], torch.Tensor]:
    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(mapped.array(description.names[name]))

    return read


def _base_head(
    description: checkpoint_files.Base, mapped: safetensors.Weights
) -> tuple[adapter_file.Head, Mapping[str, NDArray[np.float32]]] | None:
    layout = description.head
    if layout is None:
        return None
    head = adapter_file.Head(kind=layout.kind, input=layout.input, problem=description.problem)
    return head, {name: mapped.array(description.names[f"head.{name}"]) for name in layout.names}


def _checked_pooling(mode: str, description: checkpoint_files.Base) -> str:
    if mode == "pooler" and not description.has_pooler:
        raise errors.BadArtifact(
            "`pooling.mode` is 'pooler', but the checkpoint has no pooler",
            reason="NoPooler",
            hint="use 'mean', 'cls' or 'max'",
        )
    return mode
