"""`bertd apply` and `bertd diff`: declare objects, or see what that would change."""

import sys
from collections.abc import Sequence

from bertd import errors
from bertd.cli import exits, manifests, references, terminal, waiting
from bertd.client import admin

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def apply(names: Sequence[str], *, dry_run: bool, wait_s: float | None) -> None:
    """Declares the objects of manifests, one call for each manifest, in order.

    All manifests are checked here first, so that a mistake needs no daemon and changes nothing.

    Args:
        names: Files, directories, or `-`.
        dry_run: The daemon checks everything and changes nothing.
        wait_s: Wait so long for everything to be Ready as written; None: do not wait.
    """
    texts = manifests.read(names)
    manifests.parse(texts)
    written: list[waiting.Wanted] = []
    with admin.AdminClient() as daemon:
        for text in texts:
            outcome = daemon.apply(
                text.yaml, file_name=text.name, base_dir=text.base_dir, dry_run=dry_run
            )
            _report(outcome, dry_run)
            written += [waiting.Wanted(o.kind, o.name, o.generation) for o in outcome.objects]
        if wait_s is not None and not dry_run:
            waiting.until_ready(daemon, written, timeout_s=wait_s)


def diff(names: Sequence[str]) -> int:
    """Prints what apply would change; returns the exit code: 1 differs, 2 or more failed."""
    try:
        return _diff(manifests.read(names))
    except errors.Error as error:
        terminal.fail(error)
        return max(exits.code(error), exits.INVALID)


def _diff(texts: Sequence[manifests.Text]) -> int:
    manifests.parse(texts)
    differs = False
    with admin.AdminClient() as daemon:
        for text in texts:
            found = daemon.diff(text.yaml, file_name=text.name, base_dir=text.base_dir)
            for warning in found.warnings:
                terminal.warn(warning)
            for each in found.objects:
                differs |= _show(each)
    return exits.FAILED if differs else exits.OK


def _report(outcome: admin.Outcome, dry_run: bool) -> None:
    for warning in outcome.warnings:
        terminal.warn(warning)
    suffix = " (dry run)" if dry_run else ""
    for each in outcome.objects:
        terminal.out(f"{references.text(each.kind, each.name)} {each.action}{suffix}")


def _show(each: admin.ObjectDiff) -> bool:
    if each.action == "unchanged":
        return False
    terminal.out(f"{references.text(each.kind, each.name)} {each.action}")
    for line in each.unified.splitlines():
        colour = _COLOURS.get(line[:1])
        terminal.out(terminal.styled(line, sys.stdout, colour) if colour else line)
    for operation in each.plan:
        terminal.out(f"plan: {operation}")
    return True
