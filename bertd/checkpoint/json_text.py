"""JSON that somebody else wrote: strict, bounded by the caller, and printable afterwards."""

import json
import math
import re
from collections.abc import Callable
from typing import Final, NoReturn

from bertd import errors, families

_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse(data: bytes | str, what: str) -> object:
    """Parse one JSON value. `what` names the text in messages.

    Beyond JSON itself, refuses duplicate keys, NaN and infinities, and halves of surrogate pairs
    (they can be neither printed nor sent).

    Raises:
        errors.BadArtifact: reason `BadJson`.
    """
    unique, constant = _hooks(what)
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value: object = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        _refuse(what, "must be UTF-8 text")
    except RecursionError:
        _refuse(what, "is nested too deeply")
    except json.JSONDecodeError as error:
        _refuse(what, f"is not JSON: {error.msg.lower()} at character {error.pos}")
    except ValueError:
        _refuse(what, "is not JSON: a number has too many digits")
    return value


def parse_object(data: bytes | str, what: str) -> dict[str, object]:
    """Parse one JSON object.

    Raises:
        errors.BadArtifact: reason `BadJson`.
    """
    value = parse(data, what)
    if not isinstance(value, dict):
        _refuse(what, "must be a JSON object")
    return value


def parse_first(data: bytes, start: int, what: str) -> tuple[object, str] | None:
    """The value that begins at a byte, and the text behind it; None where none is plain there.

    As strict as `parse`. None is no verdict: the caller then parses the whole, which says why.

    Raises:
        errors.BadArtifact: reason `BadJson`.
    """
    unique, constant = _hooks(what)
    decoder = json.JSONDecoder(object_pairs_hook=unique, parse_constant=constant)
    try:
        text = data[start:].decode("utf-8")
        value, end = decoder.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    if _SURROGATE_ESCAPE.search(text):
        return None
    return value, text[end:]


def number(value: object) -> float | None:
    """The finite float that a parsed value stands for, or None where it stands for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _hooks(
    what: str,
) -> tuple[Callable[[list[tuple[str, object]]], dict[str, object]], Callable[[str], NoReturn]]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                _refuse(what, f"has the key {families.quote(key)} twice")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        _refuse(what, f"must not hold {name}")

    return unique, constant


def _refuse(what: str, why: str) -> NoReturn:
    raise errors.BadArtifact(f"{what} {why}", reason="BadJson")
