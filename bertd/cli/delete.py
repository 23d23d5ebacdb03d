"""`bertd delete`."""

from collections.abc import Sequence

from bertd.cli import references, terminal
from bertd.client import admin


def delete(names: Sequence[str]) -> None:
    """Forgets objects, one after the other; what they serve drains and stops."""
    wanted = references.several(names)
    with admin.AdminClient() as daemon:
        for kind, name in wanted:
            daemon.delete(kind, name)
            terminal.out(f"{references.text(kind, name)} deleted")
