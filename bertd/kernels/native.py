"""The C++ kernels: a shared library on raw pointers, opened with ctypes, called without the GIL.

The library holds the same code once for every instruction set and picks at run time; the sources
lie in `native/`. Where it is missing, or is told to keep out, the eager twin computes the same.
"""

import ctypes
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bertd import errors
from bertd.kernels import layout, stack

PATH = Path(__file__).with_name("libbertd_kernels.so")
VARIABLE = "BERTD_KERNELS"  # auto, eager, or the best instruction set that may be used
AUTO, EAGER = "auto", "eager"
ISAS = ("avx512-bf16", "avx512-vnni", "avx512", "avx2", "portable")  # best first
CAPS = (AUTO, EAGER, *ISAS)
ABI = 1  # BERTD_ABI of native/abi.h
PRECISIONS = {"fp32": 0, "bf16": 1, "int8": 2}
ACTIVATIONS = {"gelu": 0, "gelu_tanh": 1, "relu": 2}
TABLES = (torch.float32, torch.bfloat16)  # what folded biases may be
NO_MEMORY = 2


class _Linear(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("panels", "scale", "total")]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Linear) for name in ("qkv", "output", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_gain", "ffn_gain")),
    ]


class _Encoder(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int32) for n in ("hidden", "heads", "ffn", "activation", "precision")),
        ("norm_eps", ctypes.c_float),
        ("relative", ctypes.c_void_p),
        ("relative_tokens", ctypes.c_int64),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("rows", ctypes.c_int32),
        ("lengths", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("biases", ctypes.c_void_p),
        ("biases_are_bf16", ctypes.c_int32),
        ("slot_stride", ctypes.c_int64),
        ("layer_stride", ctypes.c_int64),
        ("first_only", ctypes.c_int32),
    ]


class Library:
    """The kernels of one instruction set.

    `attention_dtype` is what attention inside bf16 and int8 layers computes with.
    """

    def __init__(self, library: ctypes.CDLL, isa: str) -> None:
        self.isa = isa
        self.attention_dtype = torch.bfloat16 if isa == "avx512-bf16" else torch.float32
        self._run = library.bertd_run
        self._run.argtypes = [
            *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int),
        ]
        self._run.restype = ctypes.c_int

    def prepare(self, layers: stack.Stack) -> "Runner":
        """Binds the layers of one encoder; their weights are read in place from now on."""
        return Runner(self, layers)

    def call(
        self, encoder: _Encoder, layers: ctypes.Array[_Layer], batch: _Batch, x: int, threads: int
    ) -> None:
        """Runs all `layers` over the hidden states at address `x`, in place.

        Raises:
            Temporary: there is no memory for what lies between two products.
        """
        addresses = (ctypes.byref(encoder), ctypes.byref(layers))
        isa = self.isa.encode()
        status = self._run(isa, *addresses, len(layers), ctypes.byref(batch), x, threads)
        if status == NO_MEMORY:
            raise errors.Temporary("no memory to run a batch in", reason="NoMemory")
        if status:
            raise errors.Bug(f"the kernels for '{self.isa}' are not there: status {status}")


class Runner:
    """The layers of one encoder, ready to run; lanes share it."""

    def __init__(self, library: Library, layers: stack.Stack) -> None:
        self._library = library
        self._stack = layers  # holds the weights whose addresses the structures carry
        self._layers = (_Layer * len(layers.layers))(*map(_layer, layers.layers))
        shape, relative = layers.shape, layers.relative_HSS
        self._encoder = _Encoder(
            hidden=shape.hidden,
            heads=shape.heads,
            ffn=shape.ffn,
            activation=ACTIVATIONS[shape.activation],
            precision=PRECISIONS[layers.precision],
            norm_eps=shape.norm_eps,
            relative=None if relative is None else relative.data_ptr(),
            relative_tokens=0 if relative is None else relative.shape[-1],
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of memory that its weights occupy."""
        return self._stack.nbytes

    def run(
        self,
        x_TD: torch.Tensor,
        rows: stack.Rows,
        rows_SLW: torch.Tensor,
        threads: int = 1,
        first_only: bool = False,
    ) -> None:
        """Runs all layers over `x_TD` fp32 in place; see `stack.Runner`.

        Raises:
            Temporary: there is no memory for what lies between two products.
        """
        lengths_B = np.asarray(rows.lengths_B, np.int32)
        slots_B = np.asarray(rows.slots_B, np.int32)
        self._check(x_TD, lengths_B, slots_B, rows_SLW)
        batch = _Batch(
            rows=len(lengths_B),
            lengths=lengths_B.ctypes.data,
            slots=slots_B.ctypes.data,
            biases=rows_SLW.data_ptr(),
            biases_are_bf16=rows_SLW.dtype == torch.bfloat16,
            slot_stride=rows_SLW.stride(0),
            layer_stride=rows_SLW.stride(1),
            first_only=first_only,
        )
        self._library.call(self._encoder, self._layers, batch, x_TD.data_ptr(), threads)

    def _check(
        self,
        x_TD: torch.Tensor,
        lengths_B: NDArray[np.int32],
        slots_B: NDArray[np.int32],
        rows_SLW: torch.Tensor,
    ) -> None:
        """What raw pointers cannot tell the library.

        Raises:
            Bug: it would read or write what is not its own.
        """
        shape = self._stack.shape
        tokens = (int(lengths_B.sum()), shape.hidden)
        if x_TD.dtype != torch.float32 or x_TD.shape != tokens or not x_TD.is_contiguous():
            raise errors.Bug(f"kernels run over fp32 {tokens}, not over {x_TD.dtype} {x_TD.shape}")
        longest = self._encoder.relative_tokens or tokens[0]
        if not ((lengths_B >= 1) & (lengths_B <= longest)).all():
            raise errors.Bug(f"kernels run rows of 1 to {longest} tokens, not of {lengths_B}")
        if not ((slots_B >= 0) & (slots_B < len(rows_SLW))).all() or len(slots_B) != len(lengths_B):
            raise errors.Bug(f"kernels know {len(rows_SLW)} slots, not {slots_B}")
        layer = (len(self._layers), stack.row_width(shape))
        if rows_SLW.dtype not in TABLES or rows_SLW.shape[1:] != layer or rows_SLW.stride(2) != 1:
            raise errors.Bug(f"kernels read tables [S, {layer}], not {rows_SLW.shape}")


def open_library(cap: str | None = None, path: Path = PATH) -> Library | None:
    """The best kernels of this processor at or below `cap`; None where the twin must do.

    Args:
        cap: name of an instruction set, `eager`, or `auto`; the environment's `BERTD_KERNELS`
            by default.
        path: of the shared library.

    Raises:
        BadArtifact: there is no such cap.
    """
    found = _find(cap, path)
    return found if isinstance(found, Library) else None


def reason(cap: str | None = None, path: Path = PATH) -> str:
    """Why `open_library` gives None, for logs and people; "" where it gives kernels."""
    found = _find(cap, path)
    return found if isinstance(found, str) else ""


def _find(cap: str | None, path: Path) -> Library | str:
    """The kernels, or why there are none."""
    wanted = cap or os.environ.get(VARIABLE) or AUTO
    if wanted not in CAPS:
        raise errors.BadArtifact(
            f"{VARIABLE} must be one of {', '.join(CAPS)}, got '{wanted}'",
            reason="NoSuchKernels",
            hint="it is a variable of the daemon's environment: mend it, then start again",
        )
    if wanted == EAGER:
        return f"{VARIABLE}={EAGER}"
    if not path.is_file():
        return "bertd was installed without a C++ compiler, so it has no kernels"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # of another processor, of another libc, or no library
        return f"the kernels in '{path.name}' cannot be opened here: {error}"
    if not _agrees(library):
        return f"the kernels in '{path.name}' are of another version of bertd: install it again"
    allowed = ISAS[ISAS.index(wanted) :] if wanted in ISAS else ISAS
    return Library(library, next(isa for isa in _isas(library) if isa in allowed))


def _agrees(library: ctypes.CDLL) -> bool:
    """Whether the library was built from the structures that are mirrored here."""
    expected = [ABI, *(ctypes.sizeof(each) for each in (_Linear, _Layer, _Encoder, _Batch))]
    try:
        return [library.bertd_abi(n) for n in range(len(expected))] == expected
    except AttributeError:  # built before anybody asked, or no library of bertd's
        return False


def _isas(library: ctypes.CDLL) -> Iterator[str]:
    """What this processor has, best first; the last one is `portable`."""
    library.bertd_isa.argtypes, library.bertd_isa.restype = [ctypes.c_int], ctypes.c_char_p
    for n in itertools.count():
        if (name := library.bertd_isa(n)) is None:
            return
        yield name.decode()


def _layer(layer: stack.Layer) -> _Layer:
    products = {name: _linear(getattr(layer, name)) for name in ("qkv", "output", "up", "down")}
    return _Layer(
        **products,
        attention_gain=layer.attention_gain_D.data_ptr(),
        ffn_gain=layer.ffn_gain_D.data_ptr(),
    )


def _linear(linear: layout.Linear) -> _Linear:
    if linear.precision != "int8":
        return _Linear(panels=linear.address)
    return _Linear(
        panels=linear.address,
        scale=linear.scale.data_ptr(),
        total=linear.total.data_ptr(),
    )
