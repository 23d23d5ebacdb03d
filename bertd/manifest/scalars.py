"""Plain scalars by the YAML 1.2 core schema: `NO`, `22:22` and dates stay strings.

Source of the patterns: YAML 1.2.2, section 10.3.2 "Tag Resolution".
"""

import re

NUMBER_LIMIT_CHARACTERS = 64

NULL = re.compile(r"null|Null|NULL|~|")
TRUE = re.compile(r"true|True|TRUE")
FALSE = re.compile(r"false|False|FALSE")
DECIMAL = re.compile(r"[-+]?[0-9]+")
OCTAL = re.compile(r"0o[0-7]+")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
NOT_A_NUMBER = re.compile(r"\.(nan|NaN|NAN)")

Scalar = str | int | float | bool | None


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar; ValueError for a number with too many digits."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text):
        return True
    if FALSE.fullmatch(text):
        return False
    return _number(text)


def _number(text: str) -> int | float | str:
    if INFINITY.fullmatch(text):
        return float(text.replace(".", ""))
    if NOT_A_NUMBER.fullmatch(text):
        return float("nan")
    bases = ((DECIMAL, 10), (OCTAL, 8), (HEXADECIMAL, 16))
    base = next((base for pattern, base in bases if pattern.fullmatch(text)), None)
    if base is None and not FLOAT.fullmatch(text):
        return text
    if len(text) > NUMBER_LIMIT_CHARACTERS:
        raise ValueError(f"must be a number of at most {NUMBER_LIMIT_CHARACTERS} characters")
    return float(text) if base is None else int(text.removeprefix("0o"), base)
