"""Every error has one status."""

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from bertd import errors
from bertd.serving import status

UNAVAILABLE = {errors.NotReady, errors.Overloaded, errors.Temporary}


def every_class() -> list[type[errors.Error]]:
    """All error classes but their base, which nobody raises."""
    classes = (value for _, value in inspect.getmembers(errors, inspect.isclass))
    return [each for each in classes if issubclass(each, errors.Error) and each is not errors.Error]


def example(kind: type[errors.Error]) -> errors.Error:
    """An error of a class that may want a reason."""
    wanted = inspect.signature(kind).parameters
    return kind("it is so", **({"reason": "SoItIs"} if "reason" in wanted else {}))


def details(failure: status.Failure) -> status_pb2.Status:
    """The google.rpc.Status of a failure."""
    return status_pb2.Status.FromString(dict(failure.trailers)["grpc-status-details-bin"])


def detail(failure: status.Failure, message):
    """One detail by type, or None."""
    return next((message for each in details(failure).details if each.Unpack(message)), None)


def test_the_table_is_total():
    """Every class of error that bertd raises has a status (checklist 55)."""
    assert set(status.TABLE) == set(every_class())


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InvalidManifest, "INVALID_ARGUMENT"),
        (errors.InvalidRequest, "INVALID_ARGUMENT"),
        (errors.NotFound, "NOT_FOUND"),
        (errors.Conflict, "ABORTED"),
        (errors.NotServable, "FAILED_PRECONDITION"),
        (errors.BadArtifact, "FAILED_PRECONDITION"),
        (errors.NotReady, "UNAVAILABLE"),
        (errors.Overloaded, "UNAVAILABLE"),
        (errors.Temporary, "UNAVAILABLE"),
        (errors.Poison, "INTERNAL"),
        (errors.Expired, "DEADLINE_EXCEEDED"),
        (errors.TooLarge, "RESOURCE_EXHAUSTED"),
    ],
)
def test_each_class_has_its_documented_status(kind, code):
    """The status of every class, and its text and reason beside it (checklist 55)."""
    failure = status.failure(example(kind), remaining_s=None)
    assert (failure.code.name, failure.message) == (code, "it is so")
    info = detail(failure, error_details_pb2.ErrorInfo())
    named = "PoisonRequest" if kind is errors.Poison else kind.__name__
    reason = getattr(example(kind), "reason", named)
    assert (info.reason, info.domain) == (reason, "bertd.dev")
    assert (details(failure).code, details(failure).message) == (failure.code.value[0], "it is so")


@pytest.mark.parametrize("kind", every_class())
def test_only_unavailable_carries_pushback(kind):
    """Where a retry can help the wait is named, and nowhere else (checklist 55)."""
    if kind is errors.Bug:
        return
    failure = status.failure(example(kind), remaining_s=None)
    pushback = dict(failure.trailers).get("grpc-retry-pushback-ms")
    assert (pushback is not None) == (kind in UNAVAILABLE)
    assert pushback is None or int(pushback) >= 1


@pytest.mark.parametrize(
    ("retry_after_s", "remaining_s", "pushback"),
    [
        (0.25, None, "250"),
        (0.25, 10.0, "250"),
        (0.0, None, "1"),
        (0.0001, None, "1"),
        (0.2501, None, "251"),
        (1e9, None, "300000"),
        (0.25, 0.25, "-1"),
        (0.25, -1.0, "-1"),
        (-1.0, None, "-1"),
        (float("nan"), None, "-1"),
    ],
)
def test_pushback_is_the_wait_or_says_that_none_helps(retry_after_s, remaining_s, pushback):
    """A retry that could not be answered before the caller's deadline is not asked for (D10)."""
    error = errors.Overloaded("full", retry_after_s=retry_after_s)
    failure = status.failure(error, remaining_s=remaining_s)
    assert dict(failure.trailers)["grpc-retry-pushback-ms"] == pushback
    info = detail(failure, error_details_pb2.RetryInfo())
    if pushback == "-1":
        assert info is None
    else:
        assert info.retry_delay.ToMilliseconds() == int(pushback)


def test_the_hint_travels_with_the_message():
    """What to do next is part of the text."""
    failure = status.failure(errors.InvalidRequest("wrong", hint="mend it"), remaining_s=None)
    assert failure.message == "wrong (hint: mend it)"


@pytest.mark.parametrize("error", [errors.Bug("secret"), errors.Error("x"), KeyError("y")])
def test_what_is_unforeseen_has_no_text_of_its_own(error):
    """Bugs and foreign exceptions never become a status text (checklist 54)."""
    assert not status.is_foreseen(error)


def test_an_internal_error_is_an_id():
    """All that a caller learns of a bug is the id that finds it in the log (checklist 54)."""
    failure = status.internal("abc123")
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.message.startswith("internal error abc123 (hint: ")
    assert detail(failure, error_details_pb2.ErrorInfo()).metadata == {"errorId": "abc123"}


@pytest.mark.parametrize("character", ["x", "é", "\n", "%", "\ud800", "😀"])
def test_a_long_message_is_cut_to_what_trailers_hold(character):
    """A thousand manifest errors still arrive as the right status, cut."""
    failure = status.failure(errors.InvalidManifest(character * 100_000), remaining_s=None)
    assert failure.message.endswith("(cut: a gRPC status holds no more)")
    assert len(dict(failure.trailers)["grpc-status-details-bin"]) < 3200


def test_a_short_message_is_not_cut():
    """What fits is left as it is."""
    text = "x" * status.LONGEST_MESSAGE_BYTES
    assert status.failure(errors.NotFound(text), remaining_s=None).message == text


@pytest.mark.parametrize("text", ["short", "x" * 933, "x" * 934, "ü" * 466, "\ud800 %", "%" * 933])
def test_a_message_that_fits_is_told_whole(text):
    """Only what trailers cannot hold is cut, surrogates apart."""
    told = status.failure(errors.NotFound(text), remaining_s=None).message
    assert told == text.encode(errors="replace").decode()
