"""The adapters of one revision: which slot holds which biases, head and pooler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bertd import errors, families
from bertd.adapters import fold, table
from bertd.checkpoint import adapter_file
from bertd.model import heads

BASE_SLOT = 0
Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a slot answers with beside its biases; `head` is None for a base that only embeds."""

    head: heads.Head | None
    pooler: heads.Dense | None


class Bank:
    """Folds adapters into a table and keeps their heads; reads by lanes need no lock.

    Args:
        shape: the encoder's shape.
        weight: canonical name -> the original fp32 tensor of the base (weights and biases).
        dtype: the table's, the encoder's own.
        has_pooler: whether `pooler.weight` and `pooler.bias` exist in `weight`.
        base_head: the checkpoint's own head, served from slot 0.
        slots: rows the table reserves; by default as many as its address space holds.
    """

    def __init__(
        self,
        shape: families.EncoderShape,
        weight: Callable[[str], torch.Tensor],
        *,
        dtype: torch.dtype,
        has_pooler: bool,
        base_head: tuple[adapter_file.Head, Arrays] | None = None,
        slots: int | None = None,
    ) -> None:
        self.shape = shape
        self._weight = weight
        self._has_pooler = has_pooler
        self._base_bias = {
            name: weight(name)
            for name in families.bias_names(shape)
            if has_pooler or not name.startswith("pooler.")
        }
        self.table = table.BiasTable(shape, dtype, slots)
        self._loaded: dict[int, Loaded] = {}
        head, tensors = base_head or (None, {})
        self._install(BASE_SLOT, {}, head, tensors)

    def __getitem__(self, slot: int) -> Loaded:
        return self._loaded[slot]

    def load(self, slot: int, adapter: adapter_file.Adapter) -> None:
        """Folds `adapter` into `slot`, which no batch may be reading."""
        if slot == BASE_SLOT:
            raise errors.Bug("slot 0 is the base's")
        self._install(slot, adapter.offsets, adapter.info.head, adapter.head)

    def free(self, slot: int) -> None:
        """Forgets the adapter in `slot`; its row is overwritten by the next one."""
        self._loaded.pop(slot, None)

    def _install(
        self, slot: int, offsets: Arrays, head: adapter_file.Head | None, tensors: Arrays
    ) -> None:
        bias = dict(self._base_bias)
        for name, offset in offsets.items():
            bias[name] = bias[name] + torch.tensor(offset)
        rows_LW, tail_D = fold.fold(self.shape, self._weight, bias)
        self.table.write(slot, rows_LW, tail_D)
        pooler = self._pooler(bias, tensors)
        self._loaded[slot] = Loaded(
            head=_head(head, tensors, pooler) if head else None, pooler=pooler
        )

    def _pooler(self, bias: Mapping[str, torch.Tensor], tensors: Arrays) -> heads.Dense | None:
        """The base's own with the adapter's bias, or the one that the adapter brought along."""
        if self._has_pooler:
            return heads.Dense(weight=self._weight("pooler.weight"), bias=bias["pooler.bias"])
        return _dense(tensors, "pooler") if "pooler.weight" in tensors else None


def _head(head: adapter_file.Head, tensors: Arrays, pooler: heads.Dense | None) -> heads.Head:
    return heads.Head(
        kind=head.kind,
        input=head.input,
        out=_dense(tensors, "out"),
        dense=_dense(tensors, "dense") if head.kind in heads.DENSE else None,
        pooler=pooler if head.input == "pooler" else None,
    )


def _dense(tensors: Arrays, name: str) -> heads.Dense:
    return heads.Dense(
        weight=torch.tensor(tensors[f"{name}.weight"]), bias=torch.tensor(tensors[f"{name}.bias"])
    )
