"""`bertd validate`: checks that need no daemon."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertd import errors
from bertd.checkpoint import adapter_file, beneath, sources
from bertd.checkpoint import files as checkpoint_files
from bertd.cli import exits, manifests, references, terminal
from bertd.manifest import parsing, spec
from bertd.reconcile import outputs, resolving
from bertd.runtime import router

Bases = dict[str, checkpoint_files.Base]


def validate(names: Sequence[str], *, deep: bool) -> int:
    """Checks manifests, and with `deep` the files behind them; returns the exit code."""
    declared = manifests.parse(manifests.read(names))
    failed = set(_deep(declared)) if deep else set()
    for each in declared:
        name = references.text(each.kind, each.name)
        if name not in failed:
            terminal.out(f"{name} valid")
    return exits.INVALID if failed else exits.OK


def _deep(declared: Sequence[parsing.Declared]) -> Iterator[str]:
    """Prints what is wrong with the files behind each object, and yields the object's name."""
    bases: Bases = {}
    for each in declared:
        if isinstance(each.spec, spec.ModelSpec):
            yield from _model(each, each.spec, bases)
    for each in declared:
        if isinstance(each.spec, spec.AdapterSpec):
            yield from _adapter(each, each.spec, bases)


def _model(each: parsing.Declared, wanted: spec.ModelSpec, bases: Bases) -> Iterator[str]:
    name = references.text(each.kind, each.name)
    try:
        base = _base(wanted)
    except errors.Error as error:
        yield _wrong(each.where, name, error)
        return
    bases[each.name] = base
    for adapter in wanted.adapters:
        for file in _files(adapter):
            try:
                _check_adapter(file, adapter, base)
            except errors.Error as error:
                _wrong(each.where, f"{name}, adapter '{adapter.name or file}'", error)
                yield name


def _files(adapter: spec.InlineAdapter) -> list[str]:
    """The files of an adapter or of a glob; a glob that cannot be read stands for itself."""
    if adapter.name is not None:
        return [adapter.source]
    try:
        return list(map(str, sources.expand(adapter.source)))
    except errors.Error:
        return [adapter.source]  # opening it says what is wrong


def _adapter(each: parsing.Declared, wanted: spec.AdapterSpec, bases: Bases) -> Iterator[str]:
    name = references.text(each.kind, each.name)
    base = bases.get(wanted.model)
    if base is None:
        terminal.warn(f"{name}: model/{wanted.model} is not usable here; checked on its own")
    try:
        _check_adapter(wanted.source, wanted, base)
    except errors.Error as error:
        yield _wrong(each.where, name, error)


def _base(wanted: spec.ModelSpec) -> checkpoint_files.Base:
    opened = sources.open_checkpoint(wanted.base.source)
    try:
        base = checkpoint_files.describe({name: _path(fd) for name, fd in opened.items()})
        resolving.load_tokenizer(base, wanted.max_length)
    finally:
        sources.close(opened)
    resolving.check_pin(wanted.base, base)
    return base


def _check_adapter(
    source: str,
    wanted: spec.InlineAdapter | spec.AdapterSpec,
    base: checkpoint_files.Base | None,
) -> None:
    fd = sources.open_adapter(source)
    try:
        path, what = _path(fd), os.path.basename(source)
        if base is None:
            info = adapter_file.read_info(path, what=what)
        else:
            data = beneath.read_file(path, sources.MAX_ADAPTER_BYTES, what)
            info = adapter_file.prove(data, base, what=what)
    finally:
        os.close(fd)
    outputs.declared(router.Output.of(info), wanted)


def _wrong(where: str, name: str, error: errors.Error) -> str:
    message, hint = terminal.parts(error)
    terminal.fail(errors.InvalidManifest(f"{where}: {name}: {message}", hint=hint))
    return name


def _path(fd: int) -> Path:
    """The opened file itself, whatever its name points to by now."""
    return Path(f"/proc/self/fd/{fd}")
