"""What a failed call raises, made from the status that came over the wire."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol, cast

import grpc
from google.protobuf import message
from google.rpc import error_details_pb2, status_pb2

from bertd import errors
from bertd.v1 import inference_pb2 as pb

ERROR_DOMAIN = "bertd.dev"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
CODES: Mapping[int, str] = MappingProxyType({code.value[0]: code.name for code in grpc.StatusCode})


class CallError(errors.Error):
    """A call that the daemon refused, or that never reached it.

    `code` is the gRPC status by name (such as NOT_FOUND), `reason` the daemon's CamelCase word
    for it (empty when the answer is not from a daemon), `retry_after_s` the wait it asked for:
    None where it named none, negative where a retry cannot help.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        retry_after_s: float | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def unreachable(self) -> bool:
        """Whether no daemon answered at all."""
        return self.code == "UNAVAILABLE" and not self.reason


def from_item(error: pb.StreamError) -> CallError:
    """The error that one item of a stream means."""
    has_pushback = error.HasField("retry_pushback_ms")
    return CallError(
        CODES.get(error.code, "UNKNOWN"),
        error.message,
        reason=error.reason,
        retry_after_s=error.retry_pushback_ms / 1000 if has_pushback else None,
    )


class Failed(Protocol):
    """The face of a failed call that grpc and grpc.aio share."""

    def code(self) -> grpc.StatusCode:
        """The status."""

    def details(self) -> str | None:
        """The status message."""

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Keys and values, `-bin` keys as bytes."""


def from_rpc_error(error: grpc.RpcError, *, address: str) -> CallError:
    """The error that a failed call means; `address` is named where nobody answered."""
    failed = cast(Failed, error)  # what grpc raises is the call itself; its stubs do not say so
    code, details = failed.code(), failed.details()
    trailers = dict(failed.trailing_metadata() or ())
    reason = _reason(trailers)
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        return CallError(
            code.name,
            f"no daemon answers at '{address}': {details or 'connection failed'}",
            hint="start it with `bertd serve`, or name its address in BERTD_SERVER",
        )
    return CallError(
        code.name, details or code.name, reason=reason, retry_after_s=_retry_after_s(trailers)
    )


def _retry_after_s(trailers: Mapping[str, str | bytes]) -> float | None:
    pushback = trailers.get(PUSHBACK_KEY)
    try:
        return None if pushback is None else int(pushback) / 1000
    except ValueError:
        return None


def _reason(trailers: Mapping[str, str | bytes]) -> str:
    packed = trailers.get(STATUS_DETAILS_KEY, b"")
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    try:
        status.ParseFromString(packed if isinstance(packed, bytes) else packed.encode())
    except message.DecodeError:
        return ""
    for detail in status.details:
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            return str(info.reason)
    return ""
