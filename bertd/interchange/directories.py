"""A new directory of files, there as a whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bertd import errors


@contextmanager
def new(out: Path) -> Iterator[Path]:
    """Make the directory `out` of what the block puts into the one that it is given.

    Raises:
        errors.InvalidRequest: `out` exists, if only as a broken link, or what it lies in does not.
        errors.Temporary: the disk failed.
    """
    if os.path.lexists(out):
        raise errors.InvalidRequest(f"'{out}' exists already", hint="name a new directory")
    if not out.parent.is_dir():
        raise errors.InvalidRequest(
            f"'{out}' cannot be made: '{out.parent}' is not a directory", hint="make that one first"
        )
    temporary = ""
    try:
        temporary = tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)
        os.chmod(temporary, 0o755)
        yield Path(temporary)
        os.rename(temporary, out)
        temporary = ""
    except OSError as error:
        raise errors.Temporary(
            f"'{out}' could not be written: {error.strerror}", reason="DiskError"
        ) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def put(folder: Path, contents: Mapping[str, bytes]) -> dict[str, Path]:
    """Write files by their names within the directory, down to the disk; return where they lie."""
    paths = {name: folder / name for name in contents}
    for name, path in paths.items():
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.write(contents[name])
            file.flush()
            os.fsync(file.fileno())
    return paths
