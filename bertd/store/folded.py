"""The workers' cache of folded adapters, seen from the daemon: what nobody needs is removed.

Workers write `<directory>/<key>/<digest>`; a key names what folding depends on, a digest the
adapter's file. Whatever is missing is folded again, so removing too much costs time alone.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path


def sweep(directory: Path, keys: Collection[str], digests: Collection[str]) -> int:
    """Removes the caches of other keys, and in these what belongs to no adapter of `digests`.

    Returns how many files and caches went; a disk that fails keeps the rest.
    """
    removed = 0
    with suppress(OSError):
        for key in os.listdir(directory):
            if key not in keys:
                shutil.rmtree(directory / key, ignore_errors=True)
                removed += 1
                continue
            for name in os.listdir(directory / key):
                if name not in digests:
                    (directory / key / name).unlink(missing_ok=True)
                    removed += 1
    return removed
