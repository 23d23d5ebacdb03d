"""Waiting for conditions: `apply --wait` and `bertd wait`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import typer

from bertd import errors
from bertd.cli import exits, references, terminal
from bertd.client import admin, failure

POLL_INTERVAL_S = 0.1
PAUSE_PER_LOOK = 3.0  # a look at thousands of objects costs the daemon something
MOST_GETS = 64  # objects that are asked for one by one
MOST_LINES = 20  # of what blocks, and of what became ready
READY = "Ready"
PROGRESSING = "Progressing"
DELETED = "delete"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One generation of one object, as it was written."""

    kind: str
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class Goal:
    """A condition and the status that it must have, or `delete`."""

    condition: str
    status: str = "True"


Look = Callable[[], Iterator[str]]


def wait(names: Sequence[str], goal: str, *, timeout_s: float) -> None:
    """Waits until objects have a condition, or are gone; a timeout of 0 looks once.

    Raises:
        errors.InvalidRequest: The goal is not `condition=TYPE[=STATUS]` or `delete`.
        errors.NotFound: An object that should have a condition does not exist.
        typer.Exit: With code 3 at the timeout, after printing the blocking condition.
    """
    wanted, named = _goal(goal), references.several(names)
    seen = Transitions()
    with admin.AdminClient() as daemon:

        def look() -> Iterator[str]:
            for kind, name in named:
                yield from _missing(daemon, kind, name, wanted, seen)

        _poll(look, timeout_s=timeout_s)
    for kind, name in named:
        met = "deleted" if wanted.condition == DELETED else "condition met"
        terminal.out(f"{references.text(kind, name)} {met}")


def until_ready(daemon: admin.AdminClient, written: Sequence[Wanted], *, timeout_s: float) -> None:
    """Waits until every generation just written is Ready, inline adapters included.

    Prints each transition of a condition to stderr.

    Raises:
        errors.Conflict: Somebody changed or deleted an object meanwhile.
        typer.Exit: With code 1 once the daemon has given up, with code 3 at the timeout, after
            printing the blocking condition.
    """
    seen = Transitions()

    def look() -> Iterator[str]:
        shown = _written(daemon, written)
        for one in written:
            yield from _unready(daemon, one, shown.get((one.kind, one.name)), seen)

    _poll(look, timeout_s=timeout_s)
    seen.finish()


class Transitions:
    """Prints what changed in an object's conditions since it was last shown."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str, str], tuple[str, str, str]] = {}
        self._ready = 0  # objects that became so

    def show(self, shown: admin.Object) -> None:
        """Prints, in one line, every condition with another status, reason or message than before.

        The reason and the message are those of Ready, which sums the others up.
        """
        changed = [each for each in shown.status.conditions if self._is_news(shown, each)]
        if not changed:
            return
        telling = next((each for each in changed if each.type == READY), changed[-1])
        if (telling.type, telling.status) == (READY, "True"):
            self._ready += 1
            if self._ready > MOST_LINES:
                return
        others = [f"{each.type}={each.status}" for each in changed if each is not telling]
        line = " ".join((*others, describe(telling)))
        terminal.note(f"{references.text(shown.kind, shown.name)}: {line}")

    def finish(self) -> None:
        """Says how many became Ready without a line of their own."""
        if self._ready > MOST_LINES:
            terminal.note(f"and {self._ready - MOST_LINES} more: Ready=True")

    def _is_news(self, shown: admin.Object, condition: admin.Condition) -> bool:
        place = (shown.kind, shown.name, condition.type)
        now = (condition.status, condition.reason, condition.message)
        before, self._shown[place] = self._shown.get(place), now
        return before != now


def describe(condition: admin.Condition) -> str:
    """`Ready=False Loading: reading the weights`."""
    message = f": {terminal.visible(condition.message)}" if condition.message else ""
    return f"{condition.type}={condition.status} {condition.reason}{message}"


def blocker(shown: admin.Object, goal: Goal, generation: int) -> str | None:
    """Why this generation does not have the condition yet; None when it has it."""
    name = references.text(shown.kind, shown.name)
    condition = shown.status.condition(goal.condition)
    if condition is None:
        return f"{name} has no condition {goal.condition} yet"
    if condition.observed_generation != generation:
        return f"{name}: generation {generation} is not observed yet ({describe(condition)})"
    return None if condition.status == goal.status else f"{name}: {describe(condition)}"


def stuck(shown: admin.Object, generation: int) -> bool:
    """Whether the daemon has given this generation up: waiting longer is useless."""
    progressing = shown.status.condition(PROGRESSING)
    return (
        progressing is not None
        and progressing.observed_generation == generation
        and progressing.status == "False"
        and blocker(shown, Goal(READY), generation) is not None
    )


def _written(
    daemon: admin.AdminClient, written: Sequence[Wanted]
) -> Mapping[tuple[str, str], admin.Object]:
    """Those objects that are there: many come by pages."""
    if len(written) > MOST_GETS:
        kinds = sorted({one.kind for one in written})
        found: Iterator[admin.Object | None] = (
            each for kind in kinds for each in daemon.list(kind)
        )
    else:
        found = (_get(daemon, one.kind, one.name) for one in written)
    return {(each.kind, each.name): each for each in found if each is not None}


def _unready(
    daemon: admin.AdminClient, one: Wanted, shown: admin.Object | None, seen: Transitions
) -> Iterator[str]:
    name = references.text(one.kind, one.name)
    if shown is None:
        raise errors.Conflict(f"{name} was deleted while waiting for it")
    if shown.generation != one.generation:
        raise errors.Conflict(
            f"{name} was changed by somebody else while waiting for it: generation "
            f"{shown.generation} took the place of {one.generation}"
        )
    yield from _unready_generation(shown, one.generation, seen)
    if one.kind == "Model" and blocker(shown, Goal(READY), one.generation) is None:
        for adapter in daemon.list("Adapter", model=one.name):
            if adapter.name.startswith(f"{one.name}/"):
                yield from _unready_generation(adapter, one.generation, seen)


def _unready_generation(shown: admin.Object, generation: int, seen: Transitions) -> Iterator[str]:
    seen.show(shown)
    if why := blocker(shown, Goal(READY), generation):
        if stuck(shown, generation):
            terminal.fail(errors.Error(why, hint="mend it, and apply again"))
            raise typer.Exit(exits.FAILED)
        yield why


def _missing(
    daemon: admin.AdminClient, kind: str, name: str, goal: Goal, seen: Transitions
) -> Iterator[str]:
    shown = _get(daemon, kind, name)
    if goal.condition == DELETED:
        if shown is not None:
            yield f"{references.text(kind, name)} still exists"
        return
    if shown is None:
        raise errors.NotFound(f"there is no {references.text(kind, name)}")
    seen.show(shown)
    if why := blocker(shown, goal, shown.generation):
        yield why


def _get(daemon: admin.AdminClient, kind: str, name: str) -> admin.Object | None:
    try:
        return daemon.get(kind, name)
    except failure.CallError as error:
        if error.code == "NOT_FOUND":
            return None
        raise


def _poll(look: Look, *, timeout_s: float) -> None:
    began_s = time.monotonic()
    deadline_s = began_s + timeout_s
    while blocking := list(look()):
        now_s = time.monotonic()
        if now_s >= deadline_s:
            for line in blocking[:MOST_LINES]:
                terminal.note(line)
            if len(blocking) > MOST_LINES:
                terminal.note(f"and {len(blocking) - MOST_LINES} more")
            terminal.fail(errors.Expired(f"timed out after {timeout_s:g} s"))
            raise typer.Exit(exits.TIMED_OUT)
        pause_s = max(POLL_INTERVAL_S, PAUSE_PER_LOOK * (now_s - began_s))
        time.sleep(min(pause_s, deadline_s - now_s))
        began_s = time.monotonic()


def _goal(text: str) -> Goal:
    if text == DELETED:
        return Goal(DELETED)
    word, _, rest = text.partition("=")
    condition, _, status = rest.partition("=")
    if word != "condition" or not condition:
        raise errors.InvalidRequest(
            f"`--for` must be 'condition=TYPE[=STATUS]' or 'delete', not '{text}'"
        )
    return Goal(condition, status or "True")
