"""The front, as an edge sees it: questions and their answers, over one socket."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from bertd import errors, frames
from bertd.runtime import described, pipe


class Stale(Exception):
    """The route of this number is not what is published any more."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Owner:
    """Asks the front. All calls on the event loop's thread.

    Args:
        on_told: called with what the front says of itself.
        on_lost: called once when the front has gone.
    """

    def __init__(
        self, on_told: Callable[[Mapping[str, Any]], None], on_lost: Callable[[], None]
    ) -> None:
        self.pipe = pipe.Pipe(self._on_frame, self._on_end)
        self._on_told = on_told
        self._on_lost = on_lost
        self._is_lost = False
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)

    def tell(self, operation: str, **fields: Any) -> None:
        """Says something that has no reply."""
        self.pipe.send(frames.encode_control(0, {"op": operation, **fields}))

    async def find(self, model: str, adapter: str) -> described.Described:
        """The route of a name.

        Raises:
            errors.Error: as `Router.search`.
        """
        id_ = next(self._ids)
        asked = {"op": "find", "model": model, "adapter": adapter}
        answer = await self._ask(id_, frames.encode_control(id_, asked))
        return described.parsed(answer["route"])

    async def bring(self, brought: frames.Brought) -> described.Described:
        """The route of an adapter that a call brought.

        Raises:
            Stale: the route of the base is not what is published any more.
            errors.Error: as `Inline.route`.
        """
        id_ = next(self._ids)
        answer = await self._ask(id_, frames.encode_brought(id_, brought))
        return described.parsed(answer["route"])

    async def run(self, run: frames.Run) -> frames.Ran:
        """Has the rows of a call computed; cancelling it takes them back.

        Raises:
            Stale: the route is not what is published any more.
            errors.Error: as `Route.run`.
        """
        id_ = next(self._ids)
        ran: frames.Ran = await self._ask(id_, frames.encode_run(id_, run))
        return ran

    async def _ask(self, id_: int, frame: bytes) -> Any:
        if self._is_lost:
            raise _lost()
        answer = self._waiting[id_] = asyncio.get_running_loop().create_future()
        self.pipe.send(frame)
        try:
            return await answer
        except asyncio.CancelledError:
            self.pipe.send(frames.encode_cancel(id_))
            raise
        finally:
            del self._waiting[id_]

    def _on_frame(self, header: frames.Header, body: memoryview) -> None:
        if header.id == 0:
            self._on_told(frames.decode_control(body))
            return
        answer = self._waiting.get(header.id)
        if answer is None or answer.done():  # cancelled meanwhile
            return
        if header.kind is frames.Kind.RAN:
            answer.set_result(frames.decode_ran(header, body))
            return
        message = frames.decode_control(body)
        if "error" in message:
            answer.set_exception(described.raised(message["error"]))
        elif "stale" in message:
            answer.set_exception(Stale(message["stale"]))
        else:
            answer.set_result(message)

    def _on_end(self) -> None:
        self._is_lost = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_lost())
        self._on_lost()


def _lost() -> errors.NotReady:
    return errors.NotReady("the daemon is going away")
