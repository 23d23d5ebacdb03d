"""What an import found, on its way into an adapter file of one base."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertd import errors, families
from bertd.checkpoint import adapter_file, declared, files, sources
from bertd.interchange import refusals

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What files of other programs do not say; empty is what the format implies."""

    label_names: tuple[str, ...] = ()
    problem: str = ""
    head_input: str = ""
    key_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An adapter to be: canonical names, float32; `notes` say what a person may want to know."""

    layout: families.HeadLayout
    problem: str
    label_names: tuple[str, ...]
    offsets: Arrays
    head: Arrays
    origin: Mapping[str, object]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint: what it is, and its files by their names within it."""

    base: files.Base
    paths: Mapping[str, Path]


def open_base(source: str) -> Opened:
    """Describe a base; a relative directory is meant from here.

    Raises:
        errors.BadArtifact: the checkpoint is not one that bertd serves.
        errors.Temporary: the disk failed.
    """
    found = sources.resolve(source if "://" in source else os.path.abspath(source))
    opened = sources.open_checkpoint(found)
    try:
        paths = {name: Path(f"/proc/self/fd/{fd}").resolve() for name, fd in opened.items()}
        return Opened(base=files.describe(paths), paths=paths)
    finally:
        sources.close(opened)


def encode(imported: Imported, base: files.Base, what: str) -> bytes:
    """The adapter file, bound to this base and proved against it.

    Raises:
        errors.BadArtifact: naming the tensor, as `adapter_file.parse`; reason `NoPooler`.
    """
    layout = imported.layout
    if layout.input == "pooler" and not base.has_pooler and "pooler.weight" not in imported.head:
        raise refusals.bad(
            what,
            "has a head that reads the pooler, which the base lacks",
            "NoPooler",
            hint="name the checkpoint that it was made from, pooler included",
        )
    data = adapter_file.encode(
        shape=base.shape,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        head=adapter_file.Head(kind=layout.kind, input=layout.input, problem=imported.problem),
        label_names=imported.label_names,
        offsets=imported.offsets,
        head_tensors=imported.head,
        training={"importedFrom": dict(imported.origin)},
        what=what,
    )
    adapter_file.prove(data, base, what=what)
    return data


def lost(info: adapter_file.AdapterInfo) -> tuple[str, ...]:
    """What of an adapter's record no other program's format has a place for."""
    found = [f"the temperature {info.temperature:g}"] if info.temperature != 1.0 else []
    return tuple(found + (["its thresholds"] if info.thresholds else []))


def labels(head: Arrays, chosen: Sequence[str], what: str) -> tuple[str, ...]:
    """The names of a head's outputs: those chosen, or LABEL_0 and so on.

    Raises:
        errors.InvalidRequest: their number is not the head's.
    """
    count = len(head["out.bias"]) if head["out.bias"].ndim == 1 else 0
    if not chosen:
        return declared.label_names({}, count)
    if len(chosen) != count:
        raise errors.InvalidRequest(
            f"{what} has {count} outputs, but {len(chosen)} label names are given"
        )
    return tuple(chosen)


def problem(layout: families.HeadLayout, label_names: Sequence[str], chosen: str) -> str:
    """What the outputs mean: what is chosen, or what transformers takes them for."""
    if chosen:
        return chosen
    return declared.problem({}, layout, len(label_names))
