"""A whole checkpoint whose weights are a pickle, as a directory of safetensors that bertd serves.

Weights become float32 under the names that they have; every other file that bertd reads is copied
as it is. What comes out is proved like any base before it gets its name.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bertd import errors, families
from bertd.checkpoint import beneath, files, safetensors, sources
from bertd.interchange import directories, refusals, tensors
from bertd.tokenization import tokenizer as tokenization

PICKLED: Final = "pytorch_model.bin"

_OF_TOKENIZER: Final = (sources.TOKENIZER, sources.TOKENIZER_CONFIG, sources.SPECIAL_TOKENS)
_OF_POOLING: Final = (sources.MODULES, sources.SENTENCE, sources.POOLING)


def convert(folder: Path, out: Path, *, tokenizer: Path | None = None) -> files.Base:
    """Write the checkpoint in `folder` into the new directory `out`; describe it as it will serve.

    Args:
        folder: a directory with `config.json` and `pytorch_model.bin`.
        out: the directory to make.
        tokenizer: where `tokenizer.json` is, if not in `folder`: that file, or its directory.

    Raises:
        errors.BadArtifact: reason `MissingFile`, as `tensors.unpickled`, `files.describe` or
            `Tokenizer.load`.
        errors.InvalidRequest: `out` exists; `folder` holds safetensors already; or as
            `tensors.unpickled`.
        errors.Temporary: the disk failed.
    """
    what = families.quote(str(folder))
    _check(folder, what)
    with directories.new(out) as made:
        contents = {sources.CONFIG: _read(folder / sources.CONFIG)}
        contents |= _tokenizer(folder if tokenizer is None else tokenizer)
        contents |= _present(folder, _OF_POOLING)
        contents[sources.WEIGHTS] = weights(folder / PICKLED, what)
        return _proved(directories.put(made, contents))


def _proved(paths: Mapping[str, Path]) -> files.Base:
    """The base as a worker describes it, whose tokenizer opens and fits its tables."""
    base = files.describe(paths)
    tokenization.Tokenizer.load(
        base.tokenizer,
        max_length=base.max_length,
        vocab=base.shape.vocab,
        token_types=base.shape.token_types,
    )
    return base


def weights(path: Path, what: str) -> bytes:
    """The safetensors file of pickled weights; buffers of whole numbers are left out.

    Raises:
        errors.BadArtifact, errors.InvalidRequest: as `tensors.unpickled`.
        errors.Temporary: the disk failed.
    """
    try:
        with open(path, "rb") as file:
            found = tensors.unpickled(file.fileno(), f"{path.name} of {what}")
    except OSError as error:
        beneath.refuse(error, f"{path.name} of {what}")
    floats = {name: array for name, array in found.arrays.items() if name not in found.dtypes}
    return safetensors.encode(floats, {"format": "pt"})


def _check(folder: Path, what: str) -> None:
    if not folder.is_dir():
        raise refusals.bad(what, "must be a directory", "SourceNotFound")
    for name in (sources.WEIGHTS, sources.INDEX):
        if os.path.lexists(folder / name):
            raise errors.InvalidRequest(
                f"{what} holds '{name}' already", hint="name it as a base as it is"
            )
    if not (folder / PICKLED).is_file():
        raise refusals.bad(
            what,
            f"has no '{PICKLED}'",
            "MissingFile",
            hint="weights in several '.bin' files, or under another name: load them with "
            "from_pretrained of transformers, and save_pretrained writes safetensors",
        )


def _tokenizer(place: Path) -> dict[str, bytes]:
    if place.is_file():
        return {sources.TOKENIZER: _read(place)}
    found = _present(place, _OF_TOKENIZER)
    if sources.TOKENIZER not in found:
        raise refusals.bad(
            families.quote(str(place)),
            f"has no '{sources.TOKENIZER}'",
            "MissingFile",
            hint="name the directory that has it with --tokenizer, or write it there with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers",
        )
    return found


def _present(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Those that are there; a link to nothing is no file that is missing, and is refused."""
    return {name: _read(folder / name) for name in names if os.path.lexists(folder / name)}


def _read(path: Path) -> bytes:
    is_tokenizer = path.name == sources.TOKENIZER
    limit = sources.MAX_TOKENIZER_BYTES if is_tokenizer else sources.MAX_JSON_BYTES
    return beneath.read_file(path, limit, families.quote(str(path)))
