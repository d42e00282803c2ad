"""Tasks and objects of a hub: submit, wait, map, chain, gather, put and get."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import Any, Generic, ParamSpec, TypeVar, overload

from actorhub.messaging.calls import Stream
from actorhub.objects.reference import ObjectRef
from actorhub.tasks.client import SubmitOptions
from actorhub.tasks.client_context import Clients
from actorhub.tasks.future import Future
from actorhub.tasks.task import TaskSpec, task_of
from actorhub.tasks.waiting import TaskMap, get_all, wait_for

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class TaskApi(ABC):
    """The part of `Hub` that submits tasks, waits for them, and puts and gets objects."""

    @abstractmethod
    def _open_clients(self) -> Clients: ...

    @abstractmethod
    def _sending(self) -> SubmitOptions:
        """Options of submitted tasks, from the hub's options."""

    # ---- tasks

    @overload
    def submit(  # type: ignore[overload-overlap]
        self, function: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[R]: ...
    @overload
    def submit(  # type: ignore[overload-overlap]
        self, function: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[R]: ...
    @overload
    def submit(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Send a task to the workers of its queue; returns its Future at once, or the Stream of a generator.

        The task is sent at the end of the current turn of the event loop, or when the futures among its arguments are
        done. Once the broker has confirmed it, it survives any crash. It runs at least once: a worker that dies costs
        an attempt. A function without `@task`, or from `__main__` or a notebook, travels by value, signed.

        Raises:
            InvalidArguments: they do not fit the annotations; nothing was sent.
            TooManyPending: `max_pending` replies are pending already; `hub.map` keeps a window instead.
            UntrustedPayload: it would travel by value, and the cluster has no secret.
            ValueError: an argument contains itself.
        """
        return self._open_clients().tasks.submit(task_of(function), args, kwargs, self._sending())

    @overload
    async def get(self, what: ObjectRef[R] | Future[R], /, *, timeout: float | None = None) -> R: ...
    @overload
    async def get(self, what: Iterable[ObjectRef[R] | Future[R]], /, *, timeout: float | None = None) -> list[R]: ...
    async def get(self, what: Any, /, *, timeout: float | None = None) -> Any:
        """The value of a reference, the result of a task, or a list of them, in order.

        The arrays of an object are read-only views of memory that all processes of the machine share; copy one to
        change it. Up to eight objects of a list are fetched from other machines at once.

        Raises:
            the first failed task's exception, as soon as it fails; the others go on.
            ObjectLost: an object was freed, or its node is gone; names both.
            StoreFull: an object is on another machine, and there is no room for a copy on this one.
            TimeoutError: they are not all done in `timeout` seconds.
        """
        one = isinstance(what, ObjectRef | Future)
        depot = self._open_clients().objects
        values = await get_all([what] if one else list(what), depot.get, timeout)
        return values[0] if one else values

    async def wait(
        self, futures: Iterable[Future[R]], *, count: int | None = None, timeout: float | None = None
    ) -> tuple[list[Future[R]], list[Future[R]]]:
        """Wait until `count` of them are done (default: all), failed ones included, or `timeout` seconds have passed.

        Returns those that are done and those that are not, both in the given order.
        """
        return await wait_for(list(futures), count, timeout)

    @overload
    def map(
        self,
        function: Callable[..., Coroutine[Any, Any, R]],
        /,
        *arguments: Iterable[Any],
        ordered: bool = True,
        window: int = 1000,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[..., R],
        /,
        *arguments: Iterable[Any],
        ordered: bool = True,
        window: int = 1000,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    def map(
        self,
        function: Any,
        /,
        *arguments: Iterable[Any],
        ordered: bool = True,
        window: int = 1000,
        progress: bool = False,
    ) -> AsyncIterator[Any]:
        """Iterate the results of a task for each row of arguments, as `map` pairs them.

        Tasks that were submitted and not read are cancelled when the reader drops the iterator, as by leaving the loop,
        or calls `aclose`.

        Args:
            window: tasks that wait or run at any time, at most; fewer if `max_pending` leaves no room.
            ordered: yield results in the order of the arguments, else as they come.
            progress: show a progress bar on standard error.

        Raises:
            the first failed task's exception, in the order of the results, or any exception of the arguments' iterators
            or of `submit`; tasks submitted meanwhile are cancelled.
        """
        return TaskMap(
            lambda row: self.submit(function, *row), zip(*arguments, strict=False), ordered, window, progress
        )

    def chain(self, first: Callable[P, Any], /, *others: Callable[[Any], Any]) -> Chain[P]:
        """Chain tasks; each takes the result of the one before: `await hub.chain(load, parse, store).submit("a.csv")`.

        The message of each task carries the tasks that follow: once it is accepted the chain goes on even without its
        caller, through whom only the last result passes. It fails with the first task that fails for good.

        Raises:
            TypeError: one of them is not a function, or streams.
        """
        specs = [task_of(function) for function in (first, *others)]
        for spec in specs:
            if spec.signature.is_generator:
                raise TypeError(f"{spec.signature.label} streams; a chain passes on single results")
        return Chain(self, specs)

    def gather_into(
        self, collect: Callable[[list[Any]], R], function: Callable[..., Any], /, *arguments: Iterable[Any]
    ) -> Future[R]:
        """Run a task for each row of arguments, as `map` pairs them, then `collect` with the list of results, in order.

        The results wait at the broker; once all tasks are accepted, `collect` runs when the last of them is done, even
        without the caller. It fails with the first of them that failed, when all have ended.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, TooManyPending: nothing was sent.
            ValueError: the arguments have no row.
        """
        rows = zip(*arguments, strict=False)
        submitter = self._open_clients().tasks
        return submitter.gather_into(task_of(collect), task_of(function), rows, self._sending())

    # ---- objects

    async def put(self, value: T) -> ObjectRef[T]:
        """Put a value into the store of a node of this machine, once; returns a reference, which travels instead.

        Arrays, and other values that offer their buffers to pickle protocol 5, are copied once, into memory that every
        process of the machine reads without copying. Other nodes copy the object when they need it, once for all their
        processes. It is freed when no process has referred to it for `object_lease` seconds, or by `free`.

        Raises:
            NotSerialisable: names the part that cannot be pickled.
            StoreFull: neither memory nor disk has room.
        """
        return await self._open_clients().objects.put(value)

    async def free(self, ref: ObjectRef[Any]) -> None:
        """Remove an object from all nodes now. Current readers keep it; later reads raise ObjectLost."""
        await self._open_clients().objects.free(ref)


class Chain(Generic[P]):
    """Chain of tasks, created by `Hub.chain`."""

    def __init__(self, hub: TaskApi, specs: list[TaskSpec]) -> None:
        self._hub = hub
        self._specs = specs

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[Any]:
        """Send the first task; the Future has the result of the last one. Raises as `Hub.submit`."""
        first, *others = self._specs
        sending = replace(self._hub._sending(), then=tuple(others))
        future: Future[Any] = self._hub._open_clients().tasks.submit(first, args, kwargs, sending)
        return future
