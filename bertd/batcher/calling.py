"""One call of the user's function: on the loop if it is async, else on a thread of its own."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from concurrent import futures
from dataclasses import dataclass
from typing import Generic, TypeVar

from bertd import errors

T = TypeVar("T")
R = TypeVar("R")
Function = Callable[[list[T]], Iterable[R] | Awaitable[Iterable[R]]]


@dataclass(slots=True, eq=False)
class _Call:
    """Marks what runs inside a call; a task that it left behind is outside again."""

    is_running: bool = True


class Caller(Generic[T, R]):
    """Calls a batch function so that nothing it does can end its lane or hang it.

    A sync function never runs on the loop, and on as many threads at once as there are lanes. Calls
    see the context variables of whoever made the caller, not those of some item's caller.

    Args:
        function: Takes a list of items, returns or resolves to one result for each.
        lanes: Calls that may run at once.
    """

    def __init__(self, function: Function[T, R], lanes: int) -> None:
        is_async = any(
            map(inspect.iscoroutinefunction, (function, getattr(function, "__call__", None)))  # noqa: B004 (not whether, but which)
        )
        self._function = function
        self._threads = (
            None if is_async else futures.ThreadPoolExecutor(lanes, thread_name_prefix="batcher")
        )
        self._call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar(
            "call", default=None
        )

    @property
    def is_inside(self) -> bool:
        """Whether a call of the function is asking, or something that it started and may await."""
        call = self._call.get()
        return call is not None and call.is_running

    async def call(self, items: list[T]) -> list[R]:
        """One result for each item.

        Raises:
            errors.InvalidRequest: The function returned something else.
            errors.Temporary: The function was cancelled, or asked its thread to exit.
            Exception: Whatever the function raised.
        """
        results: object
        mark = _Call()
        token = self._call.set(mark)
        try:
            if self._threads is None:
                results = self._function(list(items))
            else:
                results = await self._in_thread(self._threads, list(items))
            if inspect.isawaitable(results):
                results = await results
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # somebody ends the lane: not a failure of the function
            raise errors.Temporary("the batch function was cancelled") from error
        finally:
            mark.is_running = False
            self._call.reset(token)
        return _checked(results, len(items))

    async def _in_thread(self, threads: futures.Executor, items: list[T]) -> object:
        context = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(
            threads, context.run, _guarded, self._function, items
        )
        results, error = await running
        if error is not None:
            raise error
        return results

    def close(self) -> None:
        """Lets idle threads end; one that still runs the function ends after it."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _guarded(
    function: Function[T, R], items: list[T]
) -> tuple[object, None] | tuple[None, Exception]:
    """Returns errors: a StopIteration or SystemExit raised through a future would hang the lane."""
    try:
        results: object = function(items)
        if not inspect.isawaitable(results):
            results = _checked(results, len(items))
        return results, None
    except Exception as error:
        return None, error
    except BaseException as error:  # SystemExit would end a program, not a thread of it
        wrapped = errors.Temporary(f"the batch function raised {type(error).__name__}")
        wrapped.__cause__ = error
        return None, wrapped


def _checked(results: object, count: int) -> list[R]:
    """The results as a list, one per item.

    Lazy results are computed here, so on the function's thread, and their errors are its errors.
    """
    if isinstance(results, str | bytes | Mapping | Set) or not isinstance(results, Iterable):
        raise errors.InvalidRequest(
            f"the batch function must return one result per item, in order, and returned "
            f"{type(results).__name__}",
            reason="WrongResults",
            hint="return a list, a tuple or an array",
        )
    listed = list(results)
    if len(listed) != count:
        raise errors.InvalidRequest(
            f"the batch function must return one result per item, and returned {len(listed)} for "
            f"{count}",
            reason="WrongResults",
        )
    return listed
