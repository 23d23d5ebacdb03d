"""Durations on the command line, written as in a manifest."""

from bertd import errors
from bertd.manifest import quantities


def seconds(text: str, option: str = "--timeout") -> float:
    """Seconds of a text such as `30s`; a plain `0` is legal too.

    Raises:
        errors.InvalidRequest: Naming the option.
    """
    if text == "0":
        return 0.0
    try:
        return quantities.parse_duration(text)
    except ValueError as error:
        raise errors.InvalidRequest(
            f"`{option}` {error}", hint=f"for example {option} 30s"
        ) from None
