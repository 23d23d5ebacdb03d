"""Which program made a file or a directory, and the adapter file that it becomes."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bertd import errors, families
from bertd.checkpoint import adapter_file, beneath
from bertd.interchange import bitinfer, huggingface, peft, records, refusals, tensors

HEAD_BYTES: Final = 8


class Format(enum.StrEnum):
    """Where a file may come from."""

    AUTO = "auto"
    BITINFER = "bitinfer"
    HUGGINGFACE = "huggingface"
    PEFT = "peft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A written adapter: its record, and what a person may want to know."""

    info: adapter_file.AdapterInfo
    format: Format
    notes: tuple[str, ...]


def convert(
    source: Path | bytes,
    base: str,
    out: Path,
    *,
    format_: Format = Format.AUTO,
    choices: records.Choices,
) -> Result:
    """Write the adapter that `source` (a path, or bytes of BitInfer's) holds for `base`.

    Raises:
        errors.BadArtifact: as the `read` of each format.
        errors.InvalidRequest: the format is not to be told, or torch is missing.
        errors.Temporary: the disk failed.
    """
    what = "standard input" if isinstance(source, bytes) else source.name
    if isinstance(source, Path):
        _check_source(source)
    found = detect(source, what) if format_ is Format.AUTO else format_
    if isinstance(source, Path) and source.is_dir() == (found is Format.BITINFER):
        raise errors.InvalidRequest(
            f"{what} must be a {'file' if found is Format.BITINFER else 'directory'} for --format "
            f"{found.value}"
        )
    opened = records.open_base(base)
    imported = _read(source, found, opened, choices, what)
    data = records.encode(imported, opened.base, what)
    adapter_file.write_bytes(out, data)
    info = adapter_file.prove(data, opened.base, what=out.name)
    return Result(info=info, format=found, notes=imported.notes)


def detect(source: Path | bytes, what: str) -> Format:
    """Tell the format by what lies there.

    Raises:
        errors.InvalidRequest: it is a directory of nothing known.
    """
    if isinstance(source, bytes) or source.is_file():
        return Format.BITINFER
    if (source / peft.CONFIG).is_file():
        return Format.PEFT
    if (source / "config.json").is_file():
        return Format.HUGGINGFACE
    raise errors.InvalidRequest(
        f"{what} holds neither '{peft.CONFIG}' nor 'config.json'",
        hint="an import takes a BitInfer file or its text, or the directory of a Hugging Face "
        "model or of a PEFT adapter",
    )


def _check_source(source: Path) -> None:
    if not source.exists():
        raise refusals.bad(f"'{source}'", "does not exist", "SourceNotFound")
    if not source.is_file() and not source.is_dir():
        raise refusals.bad(
            f"'{source}'",
            "must be a regular file or a directory",
            "NotAFile",
            hint="pipe it in, and name it '-'",
        )


def _read(
    source: Path | bytes,
    format_: Format,
    opened: records.Opened,
    choices: records.Choices,
    what: str,
) -> records.Imported:
    if format_ is not Format.BITINFER and isinstance(source, Path):
        if choices.key_prefix:
            raise errors.InvalidRequest("--key-prefix is for BitInfer's files alone")
        if choices.head_input and format_ is Format.HUGGINGFACE:
            raise errors.InvalidRequest(
                "--head-input is not for a Hugging Face model: its architecture says what its head "
                "reads"
            )
        read = peft.read if format_ is Format.PEFT else huggingface.read
        return read(source, opened, choices, what)
    found = _of_bytes(source, what) if isinstance(source, bytes) else _of_file(source, what)
    return bitinfer.read(found, opened.base, choices, what)


def _of_bytes(data: bytes, what: str) -> tensors.Found:
    with tensors.held(bitinfer.decode(data, what)) as fd:
        return tensors.unpickled(fd, what)


def _of_file(path: Path, what: str) -> tensors.Found:
    try:
        with open(path, "rb") as file:
            if bitinfer.is_binary(file.read(HEAD_BYTES)):
                return tensors.unpickled(file.fileno(), what)
    except OSError as error:
        beneath.refuse(error, families.quote(str(path)))
    return _of_bytes(beneath.read_file(path, bitinfer.MAX_TEXT_BYTES, what), what)
