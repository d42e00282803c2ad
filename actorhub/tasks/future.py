"""Futures of tasks, and their use as arguments of other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar, cast

from actorhub.messaging.calls import Call
from actorhub.objects.reference import ObjectRef, ValuePlaceholder, parts_of, replaced

R = TypeVar("R")


class Future(Awaitable[R], Generic[R]):
    """Future of a task. Awaiting it returns the task's result, or raises the task's own exception.

    It can be awaited many times, and by `asyncio.gather`, `asyncio.wait_for` and `hub.get`. Cancelling a coroutine that awaits
    it, as a timeout of asyncio does, cancels the task; `hub.get(future, timeout=...)` and `hub.wait` do not. Not thread-safe.
    """

    def __init__(
        self,
        label: str,
        call: Call[Any],
        accepted: asyncio.Future[None],
        fetch: Callable[[ObjectRef[Any]], Awaitable[Any]],
    ) -> None:
        """Make the future of a submitted task.

        Args:
            label: name of the task, for messages.
            call: receives the reply.
            accepted: done when the broker has stored the task.
            fetch: gets the value of a result that is kept in a store; called when the future is awaited.
        """
        self.label = label
        self._call = call
        self._accepted = accepted
        self._fetch = fetch

    def __await__(self) -> Generator[Any, Any, R]:
        result = yield from self._call.__await__()
        if isinstance(result, ValuePlaceholder):
            result = yield from self._fetch(result.ref).__await__()
        return result  # type: ignore[no-any-return]

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
        """Placeholder for the result among another task's arguments, also inside lists, tuples and dictionaries.

        The other task is sent when this one is done. A large result goes from node to node, and never through this process.
        If this task fails, the other one fails with the same exception and does not run.
        """
        return cast(R, self)

    async def accepted(self) -> None:
        """Wait until the broker has stored the task: from then on it runs even if this process ends.

        Raises:
            the task's exception: it was not sent, because a task that it depends on failed or the hub was closed.
        """
        await asyncio.wait([self._accepted, self._call], return_when=asyncio.FIRST_COMPLETED)
        if not self._accepted.done() and not self._call.cancelled() and (error := self._call.exception()) is not None:
            raise error

    def cancel(self) -> bool:
        """Cancel the task: one that waits is not run, one that runs is ended. Returns False if it is done already."""
        return self._call.cancel()

    def done(self) -> bool:
        return self._call.done()

    def cancelled(self) -> bool:
        return self._call.cancelled()

    def exception(self) -> BaseException | None:
        """Exception of a completed task; None if it has a result."""
        return self._call.exception()

    def add_done_callback(self, callback: Callable[[Future[R]], object]) -> None:
        """Call `callback` with this future, on the event loop, when it is done."""
        self._call.add_done_callback(lambda _: callback(self))

    @property
    def settled(self) -> asyncio.Future[Any]:
        """An asyncio future that is done when this one is."""
        return self._call


def placeholders_in(value: object) -> list[Any]:
    """Find the futures, placeholders and references among arguments, also inside lists, tuples and dictionaries.

    Raises:
        ValueError: a container contains itself.
    """
    return parts_of(value, (Future, ValuePlaceholder, ObjectRef))


def with_results(value: Any) -> Any:
    """Copy arguments, with each future replaced by its result, or by the placeholder of a stored result.

    All futures must be done and have results.
    """
    return replaced(value, lambda part: part.settled.result() if isinstance(part, Future) else part)
