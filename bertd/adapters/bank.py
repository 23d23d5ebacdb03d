"""The adapters of one revision: which slot holds which biases, head and pooler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bertd import errors, families
from bertd.adapters import fold, layout, table
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
        dtype: the table's: the encoder's `bias_dtype`.
        has_pooler: whether `pooler.weight` and `pooler.bias` exist in `weight`.
        base_head: the checkpoint's own head, served from slot 0.
        slots: rows the table reserves; by default as many as it finds room for.
        device: whose memory holds the table; heads stay on the host.
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
        device: torch.device = table.CPU,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._weight = weight
        self._base_bias = {
            name: weight(name).numpy()
            for name in families.bias_names(shape)
            if has_pooler or not name.startswith("pooler.")
        }
        names = ("pooler.weight", "pooler.bias") if has_pooler else ()
        self._base_pooler = {name: weight(name).numpy() for name in names}
        self._pooler = _dense(self._base_pooler, "pooler")  # of all who bring none of their own
        self.table = table.BiasTable(shape, dtype, slots, device)
        self._heads: dict[int, tuple[layout.Layout, NDArray[np.float32]]] = {}
        head, tensors = base_head or (None, {})
        (biases,) = self._fold([{}])
        kept, values = layout.pack(head, tensors)
        self._install(BASE_SLOT, layout.Folded(biases=biases, layout=kept, values=values))

    def __contains__(self, slot: int) -> bool:
        return slot in self._heads

    def __getitem__(self, slot: int) -> Loaded:
        """The head of `slot`, over views: its arrays stay valid when the slot is freed meanwhile.

        Raises:
            KeyError: nothing is loaded there.
        """
        kept, values = self._heads[slot]
        tensors = kept.unpack(values)
        pooler = self._pooler
        if "pooler.weight" in tensors or "pooler.bias" in tensors:
            pooler = _dense(self._base_pooler | tensors, "pooler")
        return Loaded(head=_head(kept.head, tensors, pooler) if kept.head else None, pooler=pooler)

    def fold(self, adapters: Sequence[adapter_file.Adapter]) -> list[layout.Folded]:
        """Folds adapters together, which reads every weight of the base once for all of them."""
        if not adapters:
            return []
        folded_NV = self._fold([adapter.offsets for adapter in adapters])
        heads_N = [layout.pack(a.info.head, self._answering(a)) for a in adapters]
        return [
            layout.Folded(biases=biases_V, layout=kept, values=values)
            for biases_V, (kept, values) in zip(folded_NV, heads_N, strict=True)
        ]

    def install(self, slot: int, folded: layout.Folded) -> int:
        """Puts an adapter into `slot`, which no batch may be reading; returns its head's bytes.

        Raises:
            Temporary: `slot` lies beyond the table.
        """
        if slot == BASE_SLOT:
            raise errors.Bug("slot 0 is the base's")
        return self._install(slot, folded)

    def free(self, slot: int) -> bool:
        """Forgets the adapter in `slot`, whose row the next one overwrites; False: none was there.

        The base's own slot stays what it is.
        """
        return slot != BASE_SLOT and self._heads.pop(slot, None) is not None

    def _install(self, slot: int, folded: layout.Folded) -> int:
        self.table.write(slot, folded.biases)
        self._heads[slot] = (folded.layout, folded.values)
        return folded.values.nbytes

    def _fold(self, offsets_N: Sequence[Arrays]) -> torch.Tensor:
        bias = {
            name: torch.from_numpy(_effective(base_D, [offsets.get(name) for offsets in offsets_N]))
            for name, base_D in self._base_bias.items()
        }
        rows_NLW, tail_ND = fold.fold(self.shape, self._weight, bias)
        return torch.cat((rows_NLW.flatten(1), tail_ND), dim=1).to(self.dtype)

    def _answering(self, adapter: adapter_file.Adapter) -> Arrays:
        """The tensors of its head, and the base's pooler bias where it moves it."""
        offset = adapter.offsets.get("pooler.bias")
        if offset is None or not self._base_pooler:
            return adapter.head
        return {**adapter.head, "pooler.bias": self._base_pooler["pooler.bias"] + offset}


def _effective(
    base_D: NDArray[np.float32], offsets_N: Sequence[NDArray[np.float32] | None]
) -> NDArray[np.float32]:
    """One bias of every adapter: the base's, plus an offset where there is one."""
    bias_ND = np.tile(base_D, (len(offsets_N), 1))
    for row, offset_D in enumerate(offsets_N):
        if offset_D is not None:
            bias_ND[row] += offset_D
    return bias_ND


def _head(head: adapter_file.Head, tensors: Arrays, pooler: heads.Dense | None) -> heads.Head:
    return heads.Head(
        kind=head.kind,
        input=head.input,
        out=heads.Dense(weight=tensors["out.weight"], bias=tensors["out.bias"]),
        dense=_dense(tensors, "dense"),
        pooler=pooler if head.input == "pooler" else None,
    )


def _dense(tensors: Arrays, name: str) -> heads.Dense | None:
    weight = tensors.get(f"{name}.weight")
    return None if weight is None else heads.Dense(weight=weight, bias=tensors[f"{name}.bias"])
