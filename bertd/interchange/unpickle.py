"""The child process that reads one pickle of tensors: `python -m bertd.interchange.unpickle`.

Standard input is the opened file, standard output gets the answer: exit code 0 and a safetensors
file, or exit code REFUSED and a JSON object with `reason` and `message`. Everything is imported,
and the reader warmed up, before the sandbox closes; only then is the first byte read.

Mappings of one level are flattened with a '/', other values than tensors are refused by name.
Tensors become float32; the true dtype of one that is not floating point is told in the metadata.
"""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

REFUSED: Final = 3
MEMORY_BYTES: Final = 512 * 1024 * 1024
MEMORY_PER_BYTE: Final = 8
RESULT_BYTES: Final = 4 * 1024 * 1024
RESULT_PER_BYTE: Final = 4
CPU_S: Final = 120
READ_BYTES: Final = 16 * 1024 * 1024
MAX_TENSORS: Final = 4_096
MAX_NAME_CHARACTERS: Final = 256
MAX_SHOWN_CHARACTERS: Final = 200
DTYPES: Final = "dtypes"


class Refused(Exception):
    """The file is not what it must be."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def main() -> None:
    """Read, convert, answer, leave."""
    try:
        answer, code = _answer(), 0
    except Refused as refused:
        text = {"reason": refused.reason, "message": str(refused)[:MAX_SHOWN_CHARACTERS]}
        answer, code = json.dumps(text).encode(), REFUSED
    view = memoryview(answer)
    while view:
        view = view[os.write(1, view) :]
    os._exit(code)


def _answer() -> bytes:
    try:
        import torch  # noqa: PLC0415

        from bertd.checkpoint import safetensors  # noqa: PLC0415
        from bertd.interchange import sandbox  # noqa: PLC0415
    except ImportError as error:
        raise Refused("NoTorch", str(error.name)) from error
    _warm_up(torch, safetensors)
    size = os.fstat(0).st_size
    try:
        sandbox.lock(memory_bytes=MEMORY_BYTES + MEMORY_PER_BYTE * size, cpu_s=CPU_S)
    except sandbox.Unavailable as error:
        raise Refused("NoSandbox", str(error)) from error
    try:
        value = _load(torch, b"".join(iter(_read, b"")))
        return convert(torch, safetensors, value, RESULT_BYTES + RESULT_PER_BYTE * size)
    except MemoryError as error:
        raise Refused("TooLarge", "needs more memory than a file of its size may") from error


def _warm_up(torch: Any, safetensors: Any) -> None:
    """Import what is imported on first use, the ways of failing included."""
    buffer = io.BytesIO()
    torch.save({"a": {"b": torch.nn.Parameter(torch.zeros(1))}}, buffer)
    loaded = _load(torch, buffer.getvalue())
    safetensors.encode({"a": loaded["a"]["b"].detach().half().float().numpy()}, {})
    for bad in (b"PK", b"\x80\x02cposix\nsystem\n.", buffer.getvalue()[:-40]):
        try:
            _load(torch, bad)
        except Refused:
            continue


def convert(torch: Any, safetensors: Any, value: object, limit_bytes: int) -> bytes:
    """The safetensors file of the tensors that an archive held; they may take `limit_bytes` in all.

    Raises:
        Refused: the value holds anything else.
        MemoryError: there is not enough memory for it.
    """
    arrays: dict[str, Any] = {}
    dtypes: dict[str, str] = {}
    for name, tensor in _leaves(torch, value):
        limit_bytes -= 4 * tensor.numel()
        if limit_bytes < 0 or len(arrays) == MAX_TENSORS:
            raise Refused("TooLarge", f"holds more than a file of its size may, at '{name}'")
        if not tensor.dtype.is_floating_point:
            dtypes[name] = str(tensor.dtype).removeprefix("torch.")
        arrays[name] = _array(torch, name, tensor)
    encoded: bytes = safetensors.encode(arrays, {DTYPES: json.dumps(dtypes)})
    return encoded


def _read() -> bytes:
    return os.read(0, READ_BYTES)


def _load(torch: Any, data: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a reader of hostile bytes comes to
        raise _refusal(error) from error


def _refusal(error: Exception) -> Exception:
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return Refused("UnsafePickle", f"asks for '{found[1]}', which is no tensor")
    if "alloc" in text:
        return MemoryError()
    line = text.strip().partition("\n")[0] or type(error).__name__
    return Refused("BadPickle", f"is no archive of tensors: {line}")


def _array(torch: Any, name: str, tensor: Any) -> Any:
    try:
        return tensor.detach().to(torch.float32).contiguous().numpy()
    except Exception as error:  # there are more kinds of tensors than one can list
        if isinstance(error, MemoryError) or "alloc" in str(error):
            raise MemoryError from error
        raise Refused("NotTensors", f"holds '{name}', which is no plain tensor") from error


def _leaves(torch: Any, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise Refused("NotTensors", f"must hold a mapping, not {type(value).__name__}")
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            for below, leaf in inner.items():
                yield _leaf(torch, (key, below), leaf)
        else:
            yield _leaf(torch, (key,), inner)


def _leaf(torch: Any, keys: tuple[Any, ...], leaf: Any) -> tuple[str, Any]:
    name = "/".join(map(str, keys))
    if not all(isinstance(key, str) and key.isprintable() for key in keys) or not name:
        raise Refused("NotTensors", "has a key that is no printable text")
    if name.count("/") >= len(keys):  # else two keys of the file could become one name
        raise Refused("NotTensors", f"has a key with a '/': '{name}'")
    if len(name) > MAX_NAME_CHARACTERS:
        raise Refused("NotTensors", f"has a key of more than {MAX_NAME_CHARACTERS} characters")
    if type(leaf) not in (torch.Tensor, torch.nn.Parameter):
        raise Refused("NotTensors", f"holds '{name}', which is no tensor: {type(leaf).__name__}")
    if leaf.layout is not torch.strided or leaf.is_quantized or leaf.is_complex():
        raise Refused("NotTensors", f"holds '{name}', which is no plain tensor")
    return name, leaf


if __name__ == "__main__":
    main()
