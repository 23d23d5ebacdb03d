"""Conditions: what is observed of an object, in Kubernetes' form. Pure; time comes in."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bertd import errors
from bertd.manifest import views

READY = "Ready"
RESOLVED = "ArtifactsResolved"
LOADED = "Loaded"
TYPES = (RESOLVED, LOADED, READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A condition before it has a history."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def observe(
    before: Iterable[views.Condition],
    now: Iterable[Observation],
    *,
    generation: int,
    time: str,
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


def ready(message: str) -> tuple[Observation, ...]:
    """Everything is as declared."""
    return (
        Observation(type=RESOLVED, status="True", reason="Resolved", message="all files are here"),
        Observation(type=LOADED, status="True", reason="Loaded", message="loaded and warm"),
        Observation(type=READY, status="True", reason="Serving", message=message),
    )


def pending(reason: str, message: str) -> tuple[Observation, ...]:
    """On its way; nothing is known to be wrong."""
    return tuple(
        Observation(
            type=type_,
            status="False" if type_ == READY else "Unknown",
            reason=reason,
            message=message,
        )
        for type_ in TYPES
    )


def failed(at: str, error: errors.Error) -> tuple[Observation, ...]:
    """`error` stopped the condition `at`; earlier ones held, later ones are unknown."""
    reason = getattr(error, "reason", type(error).__name__)
    place = TYPES.index(at)
    done = [
        Observation(type=type_, status="True", reason=type_.removeprefix("Artifacts"), message="")
        for type_ in TYPES[:place]
    ]
    later = [
        Observation(type=type_, status="Unknown", reason="Blocked", message=f"waits for {at}")
        for type_ in TYPES[place + 1 : -1]
    ]
    now = [
        Observation(type=type_, status="False", reason=reason, message=str(error))
        for type_ in {at, READY}
    ]
    return tuple(sorted((*done, *now, *later), key=lambda each: TYPES.index(each.type)))
