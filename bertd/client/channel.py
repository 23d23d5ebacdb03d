"""Where a client finds a daemon and how it talks to it: retries, limits, keepalive."""

import json
import os
import sys
from pathlib import Path

from bertd import addresses

# Replies may be larger than requests: 1,024 vectors of 4,096 floats and their framing.
LONGEST_REPLY_BYTES = 64 * 1024 * 1024
# grpc sends again only what it has kept, by itself 256 KiB: an adapter that a call brings has more.
LONGEST_REQUEST_BYTES = 4 * 1024 * 1024
DEFAULT_TIMEOUT_S = 10.0
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
MOST_ATTEMPTS = 4
FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 1.0

# Only UNAVAILABLE is worth a retry: overloaded, loading, restarting, draining. The daemon's
# pushback replaces the backoff exactly, and a negative one ends the retries.
SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "bertd.v1.Inference"}],
                "retryPolicy": {
                    "maxAttempts": MOST_ATTEMPTS,
                    "initialBackoff": f"{FIRST_BACKOFF_S:g}s",
                    "maxBackoff": f"{LONGEST_BACKOFF_S:g}s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)


def admin_target(address: str | None) -> str:
    """Where `Admin` is: the given address, else BERTD_SERVER, else the user's admin socket."""
    return addresses.target(address) if address else addresses.server(os.environ, _uid())


def data_target(address: str | None) -> str:
    """Where `Inference` is: as `admin_target`, but the data port where no such socket exists."""
    if address or os.environ.get(addresses.SERVER_VARIABLE):
        return admin_target(address)
    socket = addresses.admin_socket(os.environ, _uid())
    return addresses.target(socket) if Path(socket).exists() else addresses.DATA


def _uid() -> int:
    if sys.platform == "win32":  # no such thing there, and no admin socket either
        return 0
    return os.getuid()


def options() -> list[tuple[str, str | int]]:
    """Channel arguments of every client."""
    return [
        ("grpc.service_config", SERVICE_CONFIG),
        ("grpc.per_rpc_retry_buffer_size", LONGEST_REQUEST_BYTES),
        ("grpc.max_receive_message_length", LONGEST_REPLY_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ]


def retry_wait_s(code: str, pushback_s: float | None, *, attempt: int) -> float | None:
    """How long to wait before sending again what failed `attempt` times; None: never again.

    The policy of `SERVICE_CONFIG`, for what grpc itself does not send again.
    """
    if code != "UNAVAILABLE" or attempt >= MOST_ATTEMPTS:
        return None
    if pushback_s is None:
        return min(FIRST_BACKOFF_S * 2.0 ** (attempt - 1), LONGEST_BACKOFF_S)
    return pushback_s if pushback_s >= 0 else None
