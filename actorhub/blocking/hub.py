"""Blocking hub, for code without an event loop."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, ParamSpec, Self, TypeVar, overload

from actorhub.actors.execution import current_execution
from actorhub.actors.handle import ask, tell
from actorhub.actors.timers import Timer
from actorhub.blocking.portal import OwnedPortal, Portal, SentCall, SetTimer, adopted_method, items
from actorhub.cluster import BrokerChoice, LocalNodes
from actorhub.control_api.info import ActorInfo, Demand, GroupInfo, NodeInfo, QueueInfo
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.specs import Strategy
from actorhub.durable.history import ActorState, HistoryEntry
from actorhub.errors import ActorHubError, HubClosed
from actorhub.hub import hub as asynchronous
from actorhub.hub.explain import Explanation
from actorhub.hub.placement import PlacementGroup
from actorhub.messaging.connection import OnRetry
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.objects.reference import ObjectRef
from actorhub.tasks.future import Future

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Hub:
    """Blocking `actorhub.Hub`: the same methods with the same arguments; each call waits for its result."""

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        secret: str | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        self._make: Callable[[], asynchronous.Hub] = lambda: asynchronous.Hub(
            url, namespace=namespace, secret=secret, on_retry=on_retry
        )
        self._hub: asynchronous.Hub | None = None
        self._loop: Portal | None = None
        self._views: dict[str, Any] = {}
        self._root: Hub = self

    @classmethod
    def local(
        cls,
        *,
        nodes: LocalNodes = 1,
        workers: int = 2,
        slots: int | None = None,
        broker: BrokerChoice = "auto",
        modules: Sequence[str] = (),
        url: str | None = None,
        namespace: str | None = None,
    ) -> Hub:
        """See `actorhub.Hub.local`."""
        hub = cls()
        hub._make = lambda: asynchronous.Hub.local(
            nodes=nodes, workers=workers, slots=slots, broker=broker, modules=modules, url=url, namespace=namespace
        )
        return hub

    @staticmethod
    def current() -> Hub:
        """The worker's hub, inside a `def` method of an actor or a `def` task.

        Raises:
            ActorHubError: called elsewhere, or on an event loop's own thread.
        """
        here = current_execution.get()
        if here is None:
            raise ActorHubError(
                "Hub.current() works inside `def` methods of actors and `def` tasks; elsewhere use `with Hub() as hub:`"
            )
        if here.session.thread_id == threading.get_ident():
            raise ActorHubError("an `async def` method must not block its event loop; use actorhub.Hub.current() there")
        hub = Hub()
        hub._hub = asynchronous.Hub.current()
        hub._loop = Portal(here.session.loop)
        return hub

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Connect to the cluster.

        Raises:
            BrokerUnavailable: no broker was reached, or it refused the connection.
        """
        loop = OwnedPortal()
        hub = self._make()
        try:
            loop.run(hub.open())
        except BaseException:
            loop.stop()
            raise
        self._hub, self._loop = hub, loop

    def close(self) -> None:
        hub, loop = self._hub, self._loop
        self._hub = self._loop = None
        if hub is not None and loop is not None and loop.pid == os.getpid():
            loop.run(hub.close())
            loop.stop()

    def options(
        self,
        *,
        name: str | None = None,
        namespace: str | None = None,
        get_if_exists: bool | None = None,
        lifetime: Literal["session", "detached"] | None = None,
        resources: dict[str, float] | None = None,
        placement: Bundle | None = None,
        node: str | None = None,
        labels: dict[str, str] | None = None,
        prefer: dict[str, str] | None = None,
        max_restarts: int | None = None,
        priority: int | None = None,
        delay: float | None = None,
        catch_up: Literal["skip", "once", "all"] | None = None,
    ) -> Hub:
        """See `actorhub.Hub.options`."""
        view = Hub()
        view._root = self._root
        given = {
            "name": name,
            "namespace": namespace,
            "get_if_exists": get_if_exists,
            "lifetime": lifetime,
            "resources": resources,
            "placement": placement,
            "node": node,
            "labels": labels,
            "prefer": prefer,
            "max_restarts": max_restarts,
            "priority": priority,
            "delay": delay,
            "catch_up": catch_up,
        }
        view._views = {**self._views, **{key: value for key, value in given.items() if value is not None}}
        return view

    def spawn(self, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `actorhub.Hub.spawn`."""
        hub, loop = self._ready()
        return loop.run(hub.spawn(cls, *args, **kwargs))

    def at(self, cls: type[T], key: str) -> T:
        """See `actorhub.Hub.at`."""
        hub, _ = self._ready()
        return hub.at(cls, key)

    def find(self, cls: type[T], name: str) -> T:
        """See `actorhub.Hub.find`."""
        hub, loop = self._ready()
        return loop.run(hub.find(cls, name))

    def kill(self, handle: object) -> bool:
        """See `actorhub.Hub.kill`."""
        hub, loop = self._ready()
        return loop.run(hub.kill(handle))

    @overload
    def ask(self, method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def ask(self, method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def ask(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method of a handle and wait for the reply."""
        hub, loop = self._ready()

        async def call() -> Any:
            return await ask(adopted_method(hub, method), *args, **kwargs)

        return loop.run(call())

    def tell(self, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Send a message; returns when the broker has confirmed it."""
        hub, loop = self._ready()

        async def send() -> None:
            await tell(adopted_method(hub, method), *args, **kwargs)

        loop.run(send())

    def after(self, seconds: float, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> SetTimer:
        """See `actorhub.Hub.after`; returns when the broker has it."""
        return self._set_timer(lambda hub: hub.after(seconds, adopted_method(hub, method), *args, **kwargs))

    def every(
        self, interval: float | str, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> SetTimer:
        """See `actorhub.Hub.every`; returns when the broker has it."""
        return self._set_timer(lambda hub: hub.every(interval, adopted_method(hub, method), *args, **kwargs))

    def _set_timer(self, begin: Callable[[asynchronous.Hub], Timer]) -> SetTimer:
        hub, loop = self._ready()

        async def wait() -> Timer:
            return await begin(hub)

        return SetTimer(loop.run(wait()), loop)

    def send(self, method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> SentCall[R]:
        """Send a call now and get its reply later, by `result()`; many calls may be pending at once."""
        hub, loop = self._ready()

        return SentCall(loop.do(lambda: ask(adopted_method(hub, method), *args, **kwargs)), loop)

    def stream(self, method: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        """Iterate the items of a generator method."""
        hub, loop = self._ready()

        return items(loop, loop.do(lambda: adopted_method(hub, method)(*args, **kwargs)))

    @overload
    def submit(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See `actorhub.Hub.submit`; `get` waits for the result. Generators are for `actorhub.Hub`."""
        hub, loop = self._ready()

        return loop.do(lambda: hub.submit(function, *args, **kwargs))

    @overload
    def get(self, what: ObjectRef[R] | Future[R], /, *, timeout: float | None = None) -> R: ...
    @overload
    def get(self, what: Iterable[ObjectRef[R] | Future[R]], /, *, timeout: float | None = None) -> list[R]: ...
    def get(self, what: Any, /, *, timeout: float | None = None) -> Any:
        """See `actorhub.Hub.get`."""
        hub, loop = self._ready()
        return loop.run(hub.get(what, timeout=timeout))

    def put(self, value: T) -> ObjectRef[T]:
        """See `actorhub.Hub.put`."""
        hub, loop = self._ready()
        return loop.run(hub.put(value))

    def free(self, ref: ObjectRef[Any]) -> None:
        """See `actorhub.Hub.free`."""
        hub, loop = self._ready()
        loop.run(hub.free(ref))

    def wait(
        self, futures: Iterable[Future[R]], *, count: int | None = None, timeout: float | None = None
    ) -> tuple[list[Future[R]], list[Future[R]]]:
        """See `actorhub.Hub.wait`."""
        hub, loop = self._ready()
        return loop.run(hub.wait(futures, count=count, timeout=timeout))

    def map(
        self,
        function: Callable[..., R],
        /,
        *arguments: Iterable[Any],
        ordered: bool = True,
        window: int = 1000,
        progress: bool = False,
    ) -> Iterator[R]:
        """See `actorhub.Hub.map`."""
        hub, loop = self._ready()
        return items(loop, hub.map(function, *arguments, ordered=ordered, window=window, progress=progress))

    def chain(self, first: Callable[..., Any], /, *others: Callable[[Any], Any]) -> Chain:
        """See `actorhub.Hub.chain`."""
        return Chain(self, first, *others)

    def gather_into(
        self, collect: Callable[[list[Any]], R], function: Callable[..., Any], /, *arguments: Iterable[Any]
    ) -> Future[R]:
        """See `actorhub.Hub.gather_into`."""
        hub, loop = self._ready()

        return loop.do(lambda: hub.gather_into(collect, function, *arguments))

    def actors(self, *, all_namespaces: bool = False) -> list[ActorInfo]:
        """See `actorhub.Hub.actors`."""
        hub, loop = self._ready()
        return loop.run(hub.actors(all_namespaces=all_namespaces))

    def tasks(self, *, all_namespaces: bool = False) -> list[QueueInfo]:
        """See `actorhub.Hub.tasks`."""
        hub, loop = self._ready()
        return loop.run(hub.tasks(all_namespaces=all_namespaces))

    def placement_group(
        self, bundles: Sequence[Mapping[str, float]], *, strategy: Strategy = "PACK", name: str | None = None
    ) -> PlacementGroup:
        """See `actorhub.Hub.placement_group`. Returns when all of it is reserved."""
        hub, loop = self._ready()

        async def make() -> PlacementGroup:
            group = await hub.placement_group(bundles, strategy=strategy, name=name)
            await group.ready()
            return group

        return loop.run(make())

    def remove(self, group: PlacementGroup) -> bool:
        """See `actorhub.Hub.remove`."""
        hub, loop = self._ready()
        return loop.run(hub.remove(group))

    def groups(self, *, all_namespaces: bool = False) -> list[GroupInfo]:
        """See `actorhub.Hub.groups`."""
        hub, loop = self._ready()
        return loop.run(hub.groups(all_namespaces=all_namespaces))

    def drain(self, node: str) -> None:
        """See `actorhub.Hub.drain`."""
        hub, loop = self._ready()
        loop.run(hub.drain(node))

    def demand(self) -> list[Demand]:
        """See `actorhub.Hub.demand`."""
        hub, loop = self._ready()
        return loop.run(hub.demand())

    def nodes(self) -> list[NodeInfo]:
        """See `actorhub.Hub.nodes`."""
        hub, loop = self._ready()
        return loop.run(hub.nodes())

    def explain(self, what: object) -> Explanation:
        """See `actorhub.Hub.explain`. For a call that was sent by `send`, pass the `SentCall`."""
        hub, loop = self._ready()
        return loop.run(hub.explain(what._call if isinstance(what, SentCall) else what))

    def history(self, actor: object, *, limit: int = 100) -> list[HistoryEntry]:
        """See `actorhub.Hub.history`."""
        hub, loop = self._ready()
        return loop.run(hub.history(actor, limit=limit))

    def state_at(self, actor: object, number: int | None = None, *, key: str | None = None) -> ActorState:
        """See `actorhub.Hub.state_at`."""
        hub, loop = self._ready()
        return loop.run(hub.state_at(actor, number, key=key))

    def dead(self, limit: int = 100, *, after: int | None = None) -> list[DeadLetter]:
        """See `actorhub.Hub.dead`."""
        hub, loop = self._ready()
        return loop.run(hub.dead(limit, after=after))

    def dead_letter(self, id: int) -> DeadLetter:
        """See `actorhub.Hub.dead_letter`."""
        hub, loop = self._ready()
        return loop.run(hub.dead_letter(id))

    def replay(self, letter: DeadLetter | int) -> DeadLetter:
        """See `actorhub.Hub.replay`."""
        hub, loop = self._ready()
        return loop.run(hub.replay(letter))

    def purge_dead(self) -> int:
        """See `actorhub.Hub.purge_dead`."""
        hub, loop = self._ready()
        return loop.run(hub.purge_dead())

    def _ready(self) -> tuple[asynchronous.Hub, Portal]:
        root = self._root
        if root._hub is None or root._loop is None:
            raise HubClosed("the hub is not open; use it inside `with Hub() as hub:`")
        if root._loop.pid != os.getpid():  # forked: the parent keeps its connection, this process makes its own
            root._hub = root._loop = None
            root.open()
            return self._ready()
        hub = root._hub.options(**self._views) if self._views else root._hub
        return hub, root._loop


class Chain:
    """Chain of tasks, created by `Hub.chain`."""

    def __init__(self, hub: Hub, *functions: Callable[..., Any]) -> None:
        self._hub = hub
        self._functions = functions

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send the first task; the Future has the result of the last one."""
        hub, loop = self._hub._ready()

        return loop.do(lambda: hub.chain(*self._functions).submit(*args, **kwargs))
