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
from bertd.engine import choosing, devices, runner
from bertd.model import cuda, encoder

PRECISIONS = encoder.PRECISIONS
EAGER = encoder.EAGER
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBase:
    """A base in memory, warmable and ready for adapters."""

    description: checkpoint_files.Base
    runner: runner.Runner
    precision: str
    precision_reason: str  # why this one, where the declaration left the choice
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """What `describe` shows of a running revision; JSON values."""
        return {
            "precision": self.precision,
            "precisionReason": self.precision_reason,
            "device": str(self.device),
            "kernels": self.runner.encoder.kernels,
            "kernelsReason": self.runner.encoder.reason,
            "weightBytes": self.runner.encoder.weight_bytes,
            "slotBytes": self.runner.bank.table.slot_bytes,
            "slots": self.runner.bank.table.slots,
            "torch": torch.__version__,
        }


def load_base(
    files: Mapping[str, Path],
    *,
    precision: str = "auto",
    pooling: str | None = None,
    device: str = devices.CPU,
    choices: Path | None = None,
) -> LoadedBase:
    """Opens a base and prepares its encoder, with slot 0 answering for the base alone.

    Args:
        files: name within the checkpoint -> path of a file that nobody changes.
        precision: fp32, bf16, int8, or auto: whichever of fp32 and bf16 is faster here.
        pooling: mean, max, cls or pooler; None is what the checkpoint declares.
        device: auto, cpu, cuda or cuda:1; a GPU also has fp8, no int8, and bf16 for auto.
        choices: where `auto` remembers what it measured; None measures at every start.

    Raises:
        BadArtifact: a file is not what it must be, or there is no such device.
        InvalidRequest: there is no such precision.
    """
    place = devices.find(device, precision)
    wanted = _checked_precision(precision, place)
    description = checkpoint_files.describe(files)
    chosen = choosing.resolve(wanted, description, choices)
    mapped = safetensors.Weights.open(description.weights)
    weight = _reader(description, mapped)
    names = [n for n in families.encoder_names(description.shape) if n in description.names]
    engine = _encoder(description, {name: weight(name) for name in names}, chosen.precision, place)
    bank = banks.Bank(
        description.shape,
        weight,
        dtype=engine.bias_dtype,
        has_pooler=description.has_pooler,
        base_head=_base_head(description, mapped),
        device=place,
    )
    return LoadedBase(
        description=description,
        runner=runner.Runner(
            engine, bank, _checked_pooling(pooling or description.pooling.mode, description)
        ),
        precision=chosen.precision,
        precision_reason=chosen.reason,
        device=place,
    )


def _encoder(
    description: checkpoint_files.Base,
    weights: Mapping[str, torch.Tensor],
    precision: str,
    place: torch.device,
) -> encoder.Encoder | cuda.DeviceEncoder:
    if place.type == devices.CUDA:
        return cuda.DeviceEncoder(description.shape, weights, precision, place)
    return encoder.Encoder(description.shape, weights, precision)


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


def _checked_precision(precision: str, place: torch.device) -> str:
    known = (AUTO, *devices.precisions(place))
    if precision not in known:
        raise errors.InvalidRequest(
            f"`precision` must be one of {', '.join(known)}, got '{precision}'"
        )
    return "bf16" if precision == AUTO and place.type != devices.CPU else precision


def _checked_pooling(mode: str, description: checkpoint_files.Base) -> str:
    if mode == "pooler" and not description.has_pooler:
        raise errors.BadArtifact(
            "`pooling.mode` is 'pooler', but the checkpoint has no pooler",
            reason="NoPooler",
            hint="use 'mean', 'cls' or 'max'",
        )
    return mode
