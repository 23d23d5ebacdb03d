"""Exit codes, and which error leaves with which."""

from bertd import errors

OK = 0
FAILED = 1  # for `diff`: something differs
INVALID = 2
TIMED_OUT = 3
CONFLICT = 4
NO_DAEMON = 5

_BY_CLASS: tuple[tuple[type[errors.Error], int], ...] = (
    (errors.InvalidManifest, INVALID),
    (errors.InvalidRequest, INVALID),
    (errors.Conflict, CONFLICT),
    (errors.Expired, TIMED_OUT),
)
# gRPC statuses by name, as `client.failure.CallError` carries them.
_BY_STATUS = {
    "INVALID_ARGUMENT": INVALID,
    "OUT_OF_RANGE": INVALID,
    "ABORTED": CONFLICT,
    "ALREADY_EXISTS": CONFLICT,
    "DEADLINE_EXCEEDED": TIMED_OUT,
}


def code(error: errors.Error) -> int:
    """The exit code of an error, raised here or answered by the daemon."""
    for kind, exit_code in _BY_CLASS:
        if isinstance(error, kind):
            return exit_code
    # A CallError, by its attributes: naming its class would import grpc into every verb.
    if getattr(error, "unreachable", False):
        return NO_DAEMON
    return _BY_STATUS.get(getattr(error, "code", ""), FAILED)
