"""Manifest files of a command line: read, and checked without a daemon."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bertd import errors
from bertd.manifest import parsing

SUFFIXES = (".yaml", ".yml")
STDIN = "-"
# Far above what the manifest reader accepts, so that its own message is the one that is seen.
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_FILES = 1000


@dataclass(frozen=True, slots=True)
class Text:
    """One manifest: the name for messages, the YAML, and where relative sources begin."""

    name: str
    yaml: str
    base_dir: str


def read(names: Sequence[str]) -> list[Text]:
    """Reads files, directories (their `*.yaml` and `*.yml`, sorted) and `-`, in order.

    Raises:
        errors.InvalidRequest: No such file, or nothing named.
        errors.InvalidManifest: A file that is not text.
    """
    if not names:
        raise errors.InvalidRequest(
            "name at least one manifest", hint="a file, a directory, or - for standard input"
        )
    return [_read(file) for name in names for file in _expand(name)]


def parse(texts: Sequence[Text]) -> list[parsing.Declared]:
    """Every object of all manifests.

    Raises:
        errors.InvalidManifest: All errors of all manifests.
    """
    declared: list[parsing.Declared] = []
    wrong: list[str] = []
    for text in texts:
        try:
            base_dir = text.base_dir or None
            declared += parsing.parse(text.yaml, file=text.name, base_dir=base_dir).objects
        except errors.InvalidManifest as error:
            wrong.append(str(error))
    if wrong:
        raise errors.InvalidManifest("\n".join(wrong))
    return declared


def _expand(name: str) -> list[str]:
    if name == STDIN or not Path(name).is_dir():
        return [name]
    found = sorted(str(path) for path in Path(name).iterdir() if path.suffix in SUFFIXES)
    if not 0 < len(found) <= MAX_FILES:
        raise errors.InvalidRequest(
            f"the directory '{name}' must hold 1 to {MAX_FILES} files named "
            f"*.yaml or *.yml, and holds {len(found)}"
        )
    return found


def _read(name: str) -> Text:
    try:
        if name == STDIN:
            data, base_dir = sys.stdin.buffer.read(MAX_FILE_BYTES), ""
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
            base_dir = os.path.dirname(os.path.abspath(name))  # links stay what they are
    except OSError as error:
        raise errors.InvalidRequest(f"'{name}' cannot be read: {error.strerror}") from None
    try:
        return Text(name, data.decode(), base_dir)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise errors.InvalidManifest(f"{name}:{line}:{column}: (document): must be UTF-8") from None
