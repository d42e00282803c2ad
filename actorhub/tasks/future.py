"""What a caller holds of a task that it has submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar, cast

from actorhub.messaging.calls import Call
from actorhub.objects.reference import ObjectRef, ValuePlaceholder, parts_of, replaced

R = TypeVar("R")


class Future(Awaitable[R], Generic[R]):
    """The result of a task, as soon as there is one. Await it for the value, or for the task's own exception.

    It may be awaited many times, and by `asyncio.gather`, `asyncio.wait_for` and `hub.get`. Who is cancelled while awaiting it,
    as by a timeout of asyncio's, cancels the task; `hub.get(future, timeout=...)` and `hub.wait` do not. Not thread-safe.
    """

    def __init__(
        self,
        label: str,
        call: Call[Any],
        accepted: asyncio.Future[None],
        fetch: Callable[[ObjectRef[Any]], Awaitable[Any]],
    ) -> None:
        """`fetch` gets the value of a result that is kept in a store, as soon as somebody wants it."""
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
        """Stands for the result among another task's arguments, also inside lists, tuples and dictionaries: that task is sent
        when this one is done. A large result goes from node to node, and never passes through here. If this task fails, that
        one fails with the same exception, and does not run."""
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


def placeholders_in(value: object) -> list[Any]:
    """The futures, stand-ins and references among arguments, also inside lists, tuples and dictionaries.

    Raises:
        ValueError: a container contains itself.
    """
    return parts_of(value, (Future, ValuePlaceholder, ObjectRef))


def with_results(value: Any) -> Any:
    """A copy of arguments with the results of the futures, or their stand-ins, in place of them.

    All futures must be done and have results.
    """
    return replaced(value, lambda part: part.settled.result() if isinstance(part, Future) else part)
