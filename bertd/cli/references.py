"""How people name objects on the command line: `model/english`, `adapter/english/cola`."""

from collections.abc import Sequence

from bertd import errors

_KINDS = {"model": "Model", "models": "Model", "adapter": "Adapter", "adapters": "Adapter"}


def kind(word: str) -> str:
    """`Model` or `Adapter` from `model`, `models`, `adapter` or `adapters`.

    Raises:
        errors.InvalidRequest: Another word.
    """
    found = _KINDS.get(word.lower())
    if found is None:
        raise errors.InvalidRequest(
            f"a kind must be 'models' or 'adapters', and is '{word}'",
            hint="name an object as model/NAME or adapter/NAME",
        )
    return found


def text(kind_: str, name: str) -> str:
    """How an object is named in everything that is printed."""
    return f"{kind_.lower()}/{name}"


def several(words: Sequence[str]) -> list[tuple[str, str]]:
    """Kinds and names from `model/A adapter/B ...` or from `KIND A B ...`.

    Raises:
        errors.InvalidRequest: An unknown kind, or a kind without a name.
    """
    if words and "/" not in words[0]:
        common = kind(words[0])
        if len(words) == 1:
            raise errors.InvalidRequest(f"name at least one of the {common.lower()}s")
        return [(common, name) for name in words[1:]]
    return [_one(word) for word in words]


def _one(word: str) -> tuple[str, str]:
    before, _, name = word.partition("/")
    if not name:
        raise errors.InvalidRequest(f"'{word}' must be model/NAME or adapter/NAME")
    return kind(before), name
