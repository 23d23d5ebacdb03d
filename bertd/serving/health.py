"""grpc.health.v1: what probes and health-checking clients are told.

Names: `live` (the event loop turns), `startup`, `ready` and the empty name (what the daemon says),
`model/NAME` for each Model.
"""

import asyncio
from collections.abc import AsyncGenerator

import grpc
from grpc_health.v1 import health_pb2 as pb

from bertd import errors
from bertd.serving import guard as guards

SERVICE = "grpc.health.v1.Health"
LIVE = "live"
DAEMON_NAMES = ("", LIVE, "ready", "startup")
MOST_WATCHERS = 1024


class Health:
    """The table of what serves. All calls on the event loop's thread.

    `live` serves as long as anything here can answer; every other name of the daemon does not
    until `set` says so.
    """

    def __init__(self) -> None:
        self._serving = {name: name == LIVE for name in DAEMON_NAMES}
        self._watchers: dict[asyncio.Event, str] = {}
        self._is_draining = False
        self._is_closed = False

    def set(self, name: str, serving: bool) -> None:
        """Says whether a name serves: one of the daemon's, or `model/NAME`."""
        self._serving[name] = serving and not (self._is_draining and name != LIVE)
        self._wake(name)

    def forget(self, name: str) -> None:
        """Forgets a deleted Model's name: Check answers NOT_FOUND, Watch SERVICE_UNKNOWN."""
        self._serving.pop(name, None)
        self._wake(name)

    def drain(self) -> None:
        """From now on nothing serves but `live`, whatever `set` says: clients go elsewhere."""
        self._is_draining = True
        for name, serving in self._serving.items():
            self.set(name, serving)

    def close(self) -> None:
        """Ends every Watch, so that no watcher delays a server that stops."""
        self._is_closed = True
        for changed in self._watchers:
            changed.set()

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def check(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """Answers Check.

        Raises:
            errors.NotFound: Nothing has that name.
        """
        if request.service not in self._serving:
            raise errors.NotFound(
                f"nothing named '{request.service[:200]}' has a health status",
                hint="the names are '', 'live', 'ready', 'startup' and 'model/NAME'",
            )
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def watch(self, request: pb.HealthCheckRequest) -> AsyncGenerator[pb.HealthCheckResponse]:
        """Answers Watch: the status at once, then each change, until the caller or we leave.

        Raises:
            errors.Overloaded: `MOST_WATCHERS` watch already.
        """
        if len(self._watchers) >= MOST_WATCHERS:
            raise errors.Overloaded("too many watchers", retry_after_s=1.0)
        changed = asyncio.Event()
        self._watchers[changed] = request.service
        told = None
        try:
            while True:
                changed.clear()
                status = self._status(request.service)
                if status != told:
                    yield pb.HealthCheckResponse(status=status)
                    told = status
                if self._is_closed:
                    return
                await changed.wait()
        finally:
            del self._watchers[changed]

    def handlers(self, guard: guards.Guard) -> guards.Service:
        """The service, for a server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": guard.probe(pb.HealthCheckRequest, self.check),
                "Watch": guard.watch(pb.HealthCheckRequest, self.watch),
            },
        )

    def _status(self, name: str) -> pb.HealthCheckResponse.ServingStatus:
        if name not in self._serving:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        serving = self._serving[name]
        return pb.HealthCheckResponse.SERVING if serving else pb.HealthCheckResponse.NOT_SERVING

    def _wake(self, name: str) -> None:
        for changed, watched in self._watchers.items():
            if watched == name:
                changed.set()
