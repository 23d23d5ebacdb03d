"""Routes and errors as JSON: what the front tells an edge of them, and how an edge reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bertd import errors
from bertd.runtime import router

CLASSES: Mapping[str, type[errors.Error]] = MappingProxyType(
    {
        name: found
        for name, found in vars(errors).items()
        if isinstance(found, type) and issubclass(found, errors.Error)
    }
)
# What some classes of errors have besides a message and a hint.
_FIELDS = ("reason", "retry_after_s")


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """What `Tokenizer.load` needs to make the tokenizer that the front itself uses."""

    path: Path
    max_length: int
    vocab: int
    token_types: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A route, as far as whoever does not run it has to know it; `number` names it to the front."""

    number: int
    model: str
    adapter: str
    revision: str
    digest: str
    output: router.Output | None
    tokenizer: TokenizerFile
    truncate: bool
    normalize: bool
    dimensions: int
    is_inline: bool


def route(number: int, found: router.Route) -> dict[str, Any]:
    """A route as JSON values; `parsed` is the way back."""
    output = found.output
    return {
        "number": number,
        "model": found.model,
        "adapter": found.adapter,
        "revision": found.revision,
        "digest": found.digest,
        "output": output
        and {
            "label_names": output.label_names,
            "problem": output.problem,
            "temperature": output.temperature,
            "thresholds": dict(output.thresholds),
        },
        "tokenizer": {
            "path": str(found.base.tokenizer),
            "max_length": found.tokenizer.max_length,
            "vocab": found.base.shape.vocab,
            "token_types": found.base.shape.token_types,
        },
        "truncate": found.truncate,
        "normalize": found.normalize,
        "dimensions": found.dimensions,
        "is_inline": found.content is not None and found.content.inline,
    }


def parsed(message: Mapping[str, Any]) -> Described:
    """What `route` made, after its way through JSON."""
    output, tokenizer = message["output"], message["tokenizer"]
    return Described(
        **{
            **message,
            "output": output
            and router.Output(**{**output, "label_names": tuple(output["label_names"])}),
            "tokenizer": TokenizerFile(**{**tokenizer, "path": Path(tokenizer["path"])}),
        }
    )


def error(found: errors.Error) -> dict[str, Any]:
    """An error as JSON values; `raised` is the way back."""
    fields = {name: getattr(found, name) for name in _FIELDS if hasattr(found, name)}
    return {
        "class": type(found).__name__,
        "message": found.message,
        "hint": found.hint,
        **fields,
    }


def raised(message: Mapping[str, Any]) -> errors.Error:
    """A fresh error of the class and with the fields that `error` was given."""
    fields = {name: message[name] for name in ("hint", *_FIELDS) if name in message}
    return CLASSES[message["class"]](message["message"], **fields)
