"""The one table from what went wrong to the gRPC status that says so."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeGuard

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from bertd import errors

ERROR_DOMAIN = "bertd.dev"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

# HTTP/2 headers travel under a soft limit of 8 KiB; the text goes twice (plain and in the details).
LONGEST_MESSAGE_BYTES = 2800
CUT_MARK = " ... (cut: a gRPC status holds no more)"
# Temporary troubles heal by the daemon's own retry, which starts well below a second.
TEMPORARY_RETRY_S = 1.0
LONGEST_PUSHBACK_S = 300.0

TABLE: Mapping[type[errors.Error], grpc.StatusCode] = MappingProxyType(
    {
        errors.InvalidManifest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.Conflict: grpc.StatusCode.ABORTED,
        errors.NotServable: grpc.StatusCode.FAILED_PRECONDITION,
        errors.NotReady: grpc.StatusCode.UNAVAILABLE,
        errors.Overloaded: grpc.StatusCode.UNAVAILABLE,
        errors.Poison: grpc.StatusCode.INTERNAL,
        errors.Expired: grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.BadArtifact: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Temporary: grpc.StatusCode.UNAVAILABLE,
        errors.Bug: grpc.StatusCode.INTERNAL,
    }
)
# ErrorInfo.reason is the error's own `reason`, else one of these, else the name of its class.
REASONS: Mapping[type[errors.Error], str] = MappingProxyType({errors.Poison: "PoisonRequest"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A status as it goes over the wire; `pushback_ms` is None unless it is UNAVAILABLE."""

    code: grpc.StatusCode
    message: str
    reason: str
    pushback_ms: int | None = None
    error_id: str = ""

    @property
    def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        """What goes with the status of a call: the wait as metadata, everything as details."""
        metadata = {"errorId": self.error_id} if self.error_id else {}
        info = error_details_pb2.ErrorInfo(
            reason=self.reason, domain=ERROR_DOMAIN, metadata=metadata
        )
        details = [_packed(info)]
        trailers: list[tuple[str, str | bytes]] = []
        if self.pushback_ms is not None:
            trailers.append((PUSHBACK_KEY, str(self.pushback_ms)))
            if self.pushback_ms > 0:
                details.append(_packed(_retry_info(self.pushback_ms)))
        rich = status_pb2.Status(code=self.code.value[0], message=self.message, details=details)
        return (*trailers, (STATUS_DETAILS_KEY, rich.SerializeToString()))


def is_foreseen(error: BaseException) -> TypeGuard[errors.Error]:
    """Whether the error's text was written for a caller: not a bug, not somebody's exception."""
    is_listed = isinstance(error, errors.Error) and type(error) in TABLE
    return is_listed and not isinstance(error, errors.Bug)


def failure(error: errors.Error, *, remaining_s: float | None) -> Failure:
    """The status of a foreseen error.

    Args:
        error: An error whose class is in `TABLE`.
        remaining_s: What is left of the deadline that the caller itself set; None when it set
            none, and then a retry gets a deadline of its own.
    """
    code = TABLE[type(error)]
    reason = str(getattr(error, "reason", REASONS.get(type(error), type(error).__name__)))
    is_temporary = code is grpc.StatusCode.UNAVAILABLE
    return Failure(
        code=code,
        message=_bounded(str(error)),
        reason=reason,
        pushback_ms=_pushback_ms(_retry_after_s(error), remaining_s) if is_temporary else None,
    )


def internal(error_id: str) -> Failure:
    """The status of everything unforeseen: only an id, which finds the stack in the log."""
    text = f"internal error {error_id} (hint: the daemon's log has the details under this id)"
    code = grpc.StatusCode.INTERNAL
    return Failure(code=code, message=text, reason="Internal", error_id=error_id)


def _retry_after_s(error: errors.Error) -> float:
    return error.retry_after_s if isinstance(error, errors.NotReady) else TEMPORARY_RETRY_S


def _pushback_ms(retry_after_s: float, remaining_s: float | None) -> int:
    """At least 1, or -1: a retry is hopeless, or could not be answered before the deadline."""
    hopeless = retry_after_s < 0 or (remaining_s is not None and retry_after_s >= remaining_s)
    if hopeless or math.isnan(retry_after_s):
        return -1
    return max(1, math.ceil(min(retry_after_s, LONGEST_PUSHBACK_S) * 1000))


def _retry_info(pushback_ms: int) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(pushback_ms)
    return info


def _packed(detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _bounded(text: str) -> str:
    """The text cut to whole characters so that its percent-encoded form fits into a trailer."""
    encoded = text.encode(errors="replace")
    text = encoded.decode()
    if 3 * len(encoded) <= LONGEST_MESSAGE_BYTES:
        return text
    sizes = [_wire_bytes(character) for character in text]
    if sum(sizes) <= LONGEST_MESSAGE_BYTES:
        return text
    ends = itertools.accumulate(sizes)
    kept = sum(1 for _ in itertools.takewhile(lambda end: end <= LONGEST_MESSAGE_BYTES, ends))
    return text[:kept] + CUT_MARK


def _wire_bytes(character: str) -> int:
    """What the character takes in `grpc-message`: printable ASCII itself, else %XX per byte."""
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
