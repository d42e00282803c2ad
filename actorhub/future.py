"""What a caller holds of a task that it has submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Generic, TypeVar, cast

from actorhub.call import Call

R = TypeVar("R")


class Future(Awaitable[R], Generic[R]):
    """The result of a task, as soon as there is one. Await it for the value, or for the task's own exception.

    It may be awaited many times, and by `asyncio.gather`, `asyncio.wait_for` and `hub.get`. Not thread-safe.
    """

    def __init__(self, label: str, call: Call[Any], accepted: asyncio.Future[None]) -> None:
        self.label = label
        self._call = call
        self._accepted = accepted

    def __await__(self) -> Generator[Any, Any, R]:
        return (yield from self._call.__await__())  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        call = self._call
        state = (
            "waiting"
            if not call.done()
            else "cancelled"
            if call.cancelled()
            else "failed"
            if call.exception()
            else "done"
        )
        return f"<future of {self.label}: {state}>"

    def as_argument(self) -> R:
        """Stands for the result among another task's arguments, also inside lists, tuples and dictionaries: that task is sent
        when this one is done. If this one fails, that one fails with the same exception, and does not run."""
        return cast(R, self)

    async def accepted(self) -> None:
        """Returns when the broker has the task: from then on it runs, whatever becomes of this process.

        Raises:
            the task's exception: it was not sent, for a task that it depends on failed, or the hub was closed.
        """
        await asyncio.wait([self._accepted, self._call], return_when=asyncio.FIRST_COMPLETED)
        if not self._accepted.done() and not self._call.cancelled() and (error := self._call.exception()) is not None:
            raise error

    def cancel(self) -> bool:
        """Nobody wants the result any more: a task that waits is not run, one that runs is ended. False where it is done."""
        return self._call.cancel()

    def done(self) -> bool:
        return self._call.done()

    def cancelled(self) -> bool:
        return self._call.cancelled()

    def exception(self) -> BaseException | None:
        """Of a task that is done; None where it has a result."""
        return self._call.exception()

    def add_done_callback(self, callback: Callable[[Future[R]], object]) -> None:
        """Called on the event loop, with this future, when it is done."""
        self._call.add_done_callback(lambda _: callback(self))

    @property
    def settled(self) -> asyncio.Future[Any]:
        """Done when this is."""
        return self._call


def futures_in(value: object) -> list[Future[Any]]:
    """The futures among arguments, also inside lists, tuples and dictionaries.

    Raises:
        ValueError: a container contains itself.
    """
    return list(_futures_in(value, ()))


def _futures_in(value: object, around: tuple[int, ...]) -> Iterator[Future[Any]]:
    if isinstance(value, Future):
        yield value
    elif type(value) in (list, tuple, dict):
        if id(value) in around:
            raise ValueError(
                f"an argument contains itself: a {type(value).__name__} in a cycle; tasks take trees of values"
            )
        parts = value.values() if isinstance(value, dict) else cast("list[Any]", value)
        for part in parts:
            yield from _futures_in(part, (*around, id(value)))


def with_results(value: Any) -> Any:
    """The same arguments with the futures' results in their places. All futures are done and have results."""
    if isinstance(value, Future):
        return value.settled.result()
    if type(value) is list:
        return [with_results(part) for part in value]
    if type(value) is tuple:
        return tuple(with_results(part) for part in value)
    if type(value) is dict:
        return {key: with_results(part) for key, part in value.items()}
    return value
