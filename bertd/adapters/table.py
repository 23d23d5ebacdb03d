"""The table of folded adapters: one row per slot, growing without ever moving.

Address space for every slot is reserved once; the kernel backs only what was written, so a table
for thousands of adapters costs what its adapters cost. A GPU has no such kernel: there the table
takes a share of the memory that is free when its base loads, at once and for good. A batch that
runs reads rows by slot number while others are written: rows never move, and a slot is freed only
after its last reader.
"""

import mmap

import torch

from bertd import errors, families
from bertd.kernels import stack

RESERVED_BYTES = 64 << 30  # of address space, not of memory
SLOTS_MAX = 1 << 20
DEVICE_SHARE = 4  # a table takes this part of a GPU's free memory
CPU = torch.device("cpu")
_MAP_NORESERVE = 0x4000  # Linux; Python names it only since 3.13


class BiasTable:
    """Folded biases of all slots of one revision; slot 0 is the base alone.

    Args:
        shape: the encoder's shape.
        dtype: of the rows: the encoder's `bias_dtype`.
        slots: rows to reserve; by default as many as fit `RESERVED_BYTES`, or a GPU's share.
        device: whose memory holds the rows.
    """

    def __init__(
        self,
        shape: families.EncoderShape,
        dtype: torch.dtype,
        slots: int | None = None,
        device: torch.device = CPU,
    ) -> None:
        self._width = stack.row_width(shape)
        self.slot_bytes = (shape.layers * self._width + shape.hidden) * dtype.itemsize
        self.slots = slots or min(SLOTS_MAX, _most_bytes(device) // self.slot_bytes)
        size_bytes = self.slots * self.slot_bytes
        self._values_SV = _reserve(size_bytes, dtype, device).view(self.slots, -1)
        layered = self._values_SV[:, : shape.layers * self._width]
        self.rows_SLW = layered.view(self.slots, shape.layers, self._width)
        self.tail_SD = self._values_SV[:, shape.layers * self._width :]

    def write(self, slot: int, values_V: torch.Tensor) -> None:
        """Puts one folded adapter, its rows and then its tail, into `slot`, which no batch reads.

        Raises:
            Temporary: `slot` lies beyond the reserved table.
        """
        if not 0 <= slot < self.slots:
            raise errors.Temporary(
                f"the adapter table has {self.slots} slots, and all are taken",
                reason="AdapterTableFull",
                hint="spread the adapters over several Models of the same base",
            )
        self._values_SV[slot].copy_(values_V)


def _most_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return RESERVED_BYTES
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes // DEVICE_SHARE


def _reserve(size_bytes: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.empty(size_bytes // dtype.itemsize, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return torch.frombuffer(mmap.mmap(-1, size_bytes, flags=flags), dtype=dtype)
