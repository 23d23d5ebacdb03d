"""Conditions: what is observed of an object, in Kubernetes' form. Pure; time comes in."""

import functools
from dataclasses import dataclass
from typing import Literal

from bertd import errors
from bertd.manifest import views

RESOLVED = "ArtifactsResolved"
LOADED = "Loaded"
READY = "Ready"
PROGRESSING = "Progressing"  # False: nothing happens any more until a declaration or a file changes
REMEMBERED = 256
STEPS = (RESOLVED, LOADED, READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A condition before it has a history."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


Observations = tuple[Observation, ...]


@functools.lru_cache(maxsize=REMEMBERED)  # thousands of adapters become something at once
def observe(
    before: tuple[views.Condition, ...], now: Observations, *, generation: int, time: str
) -> tuple[views.Condition, ...]:
    """The new conditions; `last_transition_time` moves only where `status` changed."""
    old = {condition.type: condition for condition in before}

    def since(new: Observation) -> str:
        known = old.get(new.type)
        return known.last_transition_time if known and known.status == new.status else time

    return tuple(
        views.Condition(
            type=each.type,
            status=each.status,
            reason=each.reason,
            message=each.message,
            last_transition_time=since(each),
            observed_generation=generation,
        )
        for each in now
    )


def ready(message: str) -> Observations:
    """Everything is as declared."""
    return (
        Observation(type=RESOLVED, status="True", reason="Resolved", message="all files are here"),
        Observation(
            type=LOADED, status="True", reason="Loaded", message="loaded, or loaded when asked for"
        ),
        Observation(type=READY, status="True", reason="Serving", message=message),
        Observation(type=PROGRESSING, status="False", reason="Complete", message="nothing to do"),
    )


def pending(reason: str, message: str) -> Observations:
    """On its way; nothing is known to be wrong."""
    waiting = [
        Observation(type=step, status="Unknown", reason=reason, message=message)
        for step in STEPS[:-1]
    ]
    return (
        *waiting,
        Observation(type=READY, status="False", reason=reason, message=message),
        Observation(type=PROGRESSING, status="True", reason=reason, message=message),
    )


def failed(at: str, error: errors.Error) -> Observations:
    """`error` stopped the step `at`: earlier ones held, later ones wait for it."""
    reason = getattr(error, "reason", type(error).__name__)
    return (*(_step(step, at, reason, str(error)) for step in STEPS), _progress(error))


def _step(step: str, at: str, reason: str, message: str) -> Observation:
    if step in (at, READY):
        return Observation(type=step, status="False", reason=reason, message=message)
    if STEPS.index(step) < STEPS.index(at):
        return Observation(
            type=step, status="True", reason=step.removeprefix("Artifacts"), message=""
        )
    return Observation(type=step, status="Unknown", reason="Blocked", message=f"waits for {at}")


def _progress(error: errors.Error) -> Observation:
    if isinstance(error, errors.BadArtifact):
        message = "nothing happens until the declaration or its files change"
        return Observation(type=PROGRESSING, status="False", reason="Failed", message=message)
    message = "the daemon tries again by itself"
    return Observation(type=PROGRESSING, status="True", reason="Retrying", message=message)
