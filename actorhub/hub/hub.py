"""Hub: a process's connection to a cluster, in one namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, cast

from pydantic import SecretStr

from actorhub.actors.execution import current_execution
from actorhub.actors.handle import Handle, address_of, remote_of, spec_behind
from actorhub.actors.spec import ActorSpec, spec_of
from actorhub.actors.timers import Timer, after, every
from actorhub.cluster import BrokerChoice, LocalCluster, LocalNodes
from actorhub.control_api.client import control_client, find, unwrap
from actorhub.control_api.directory import cluster_session
from actorhub.control_api.events import SpawnRequested
from actorhub.control_api.info import NodeInfo
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.sharding import shard_address
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.addressing import check_name
from actorhub.errors import ActorHubError, ActorNotFound, HubClosed
from actorhub.hub.inspection import InspectionApi
from actorhub.hub.options import Options
from actorhub.hub.placement import PlacementApi
from actorhub.hub.tasks import TaskApi
from actorhub.messaging.connection import OnRetry
from actorhub.messaging.session import Session, current_session
from actorhub.settings import Settings
from actorhub.tasks.client import SubmitOptions
from actorhub.tasks.client_context import ClientContext, Clients
from actorhub.wire.method_signature import Untyped

if TYPE_CHECKING:
    from actorhub.hub.in_process_cluster import InProcessCluster

log = logging.getLogger(__name__)

REPLY_TIMEOUT_SECONDS = 2.0  # of control; a client that calls again earlier, on a busy machine, never gets a reply
SLOW_START_SECONDS = 20.0  # after which a client that waits for a local cluster is told which nodes are ready
KILL_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.01

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_current_clients: ContextVar[Clients | None] = ContextVar("actorhub_clients", default=None)
"""Clients of the enclosing `async with Hub()`."""


class Hub(TaskApi, InspectionApi, PlacementApi):
    """Connection to a cluster, to spawn and find actors: `async with Hub(...) as hub:`. One for a process is enough.

    A hub survives the loss of its connection and a restart of the broker: it connects again, as long as it takes, and
    sends unconfirmed messages again; the order of calls to each actor is kept, no live instance handles one twice.

    Args:
        url: the broker, `amqp://user:password@host:port/vhost`; by default ACTORHUB_URL. Without both, the hub starts
            a cluster in threads of this process: a broker that keeps everything in memory, and a worker.
        namespace: where names are looked up.
        secret: signs payloads that are not JSON; the same in all processes of a cluster. By default ACTORHUB_SECRET.
        on_retry: called as `on_retry(number, error)` before each further try to reach the broker.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        secret: str | None = None,
        settings: Settings | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        given: dict[str, Any] = {"url": url, "namespace": namespace, "secret": SecretStr(secret) if secret else None}
        changes = {name: value for name, value in given.items() if value is not None}
        self._settings = Settings(**changes) if settings is None else settings.model_copy(update=changes)
        self._on_retry = on_retry
        self._clients: Clients | None = None
        self._cluster: LocalCluster | InProcessCluster | None = None
        self._options = Options(namespace=self._settings.namespace)
        self._owner: str | None = None
        self._is_view = False
        self._outer: tuple[Token[Session | None], Token[Clients | None]] | None = None

    # ---- life

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
        settings: Settings | None = None,
    ) -> Hub:
        """Hub of a cluster on this machine, which it starts, waits for, and stops at its end.

        Args:
            nodes: number of nodes, or their resources by id: `{"one": {"cpu": 2}, "two": {"cpu": 1, "gpu": 1}}`.
            workers, slots: processes of each node for actors, and for tasks (by default as many as workers).
            broker: "auto" uses the broker at `url` or ACTORHUB_URL, else starts a private RabbitMQ, or the embedded
                broker if RabbitMQ is not installed; "rabbitmq" and "embedded" always start one of their own.
            modules: their actors may run on the nodes; classes from `__main__` and notebooks travel by value.
        """
        hub = cls(url, namespace=namespace, settings=settings)
        hub._cluster = LocalCluster(hub._settings, nodes, workers, slots, modules, broker)
        return hub

    @staticmethod
    def current() -> Hub:
        """The hub of the running actor or task, or of the enclosing `async with Hub()`.

        Raises:
            ActorHubError: called outside of both.
        """
        here = current_execution.get()
        clients = here.clients if isinstance(here, ClientContext) else _current_clients.get()
        if clients is None:
            raise ActorHubError("there is no current hub; use `async with Hub() as hub:`")
        hub = Hub(settings=clients.session.settings)
        hub._is_view = True
        hub._clients = clients
        if here is not None:
            hub._owner = f"actor:{address_of(here.handle).actor_id}" if here.handle is not None else None
            hub._options = Options(namespace=here.namespace)
        return hub

    async def __aenter__(self) -> Self:
        await self.open()
        self._outer = current_session.set(self._open_session()), _current_clients.set(self._clients)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._outer is not None:
            session, clients = self._outer
            current_session.reset(session)
            _current_clients.reset(clients)
        await self.close()

    async def open(self) -> None:
        """Connect to the cluster.

        Raises:
            BrokerUnavailable: no broker was reached, or it refused the credentials or the virtual host.
        """
        if self._cluster is None and self._settings.url is None:
            # Imported here for its cost: it imports the node and the workers, which clients do not need.
            from actorhub.hub.in_process_cluster import InProcessCluster

            self._cluster = InProcessCluster(self._settings)
        if self._cluster is not None:
            self._settings = await self._cluster.start()
            self._options = self._options.model_copy(update={"namespace": self._settings.namespace})
        try:
            self._clients = Clients.of(cluster_session(self._settings, on_retry=self._on_retry))
            await self._clients.session.open()
            self._clients.objects.open()
            if self._cluster is not None:
                await self._until_ready(self._cluster)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the hub's session, and the actors that were not spawned as detached. A local cluster stops."""
        clients, self._clients = self._clients, None
        if clients is not None and not self._is_view:
            session = clients.session
            if session.link is not None and session.owns_actors:
                try:
                    async with asyncio.timeout(2.0):
                        await control_client(session).end_session(session.id)
                except (TimeoutError, ActorHubError):
                    pass  # control notices by itself that the session is gone
            await clients.objects.close()
            await session.close()
        if self._cluster is not None and not self._is_view:
            await self._cluster.stop()

    async def _until_ready(self, cluster: LocalCluster | InProcessCluster) -> None:
        loop = asyncio.get_running_loop()
        said, nodes = loop.time(), list[NodeInfo]()
        while True:
            cluster.check()
            if loop.time() - said > SLOW_START_SECONDS:
                said = loop.time()
                there = {node.id: len(node.workers) for node in nodes}
                log.warning("a local cluster of %d nodes is not ready yet; nodes with workers: %s", cluster.size, there)
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                    nodes = await self.nodes()
            except (TimeoutError, ActorNotFound):
                await asyncio.sleep(0.02)
                continue
            hosting = [[worker for worker in node.workers if worker.kind == "shared"] for node in nodes]
            if len(nodes) >= cluster.size and all(len(workers) >= cluster.workers for workers in hosting):
                return
            await asyncio.sleep(0.02)

    @property
    def settings(self) -> Settings:
        """Settings by which another hub joins the same cluster: `Hub(settings=hub.settings)`."""
        return self._settings

    @property
    def broker(self) -> str:
        """Product and version of the broker, for people; empty while there is no connection."""
        session = self._open_session()
        return session.link.server if session.link is not None else ""

    # ---- views

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
        """View of this hub with options for actors, tasks and groups that are created or found through it.

        Args:
            name, get_if_exists: unique among the namespace's living actors; take the actor that has the name.
            lifetime: "session" ends with this hub, or the actor that spawned it; "detached" lives until it is killed.
            resources, max_restarts: instead of the class's own.
            placement: bundle of a placement group to run in, such as `group[0]`; its resources are used.
            node, labels, prefer: id of the only node; labels it must have; labels it should have, if one has room.
            priority, delay: of tasks: instead of their own; seconds that the broker keeps one before a worker gets it.
            catch_up: treatment of a timer's missed times; see `every`.
        """
        given = {
            "name": check_name("the name", name) if name is not None else None,
            "namespace": check_name("the namespace", namespace) if namespace is not None else None,
            "get_if_exists": get_if_exists,
            "lifetime": lifetime,
            "resources": resources,
            "node": node,
            "placement": placement,
            "labels": labels,
            "prefer": prefer,
            "max_restarts": max_restarts,
            "priority": priority,
            "delay": delay,
            "catch_up": catch_up,
        }
        view = Hub(settings=self._settings)
        view._is_view = True
        view._clients = self._clients
        view._owner = self._owner
        changes = {k: v for k, v in given.items() if v is not None}
        view._options = Options.model_validate({**dict(self._options), **changes})
        return view

    # ---- actors

    async def spawn(self, cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Create an actor; returns its handle once control has claimed its name and created its mailbox.

        The handle works at once: messages sent before the constructor has ended wait in the mailbox. A constructor that
        raises fails every call with ActorInitFailed.

        Raises:
            InvalidArguments: they do not fit the constructor's annotations.
            NameTaken: another living actor of the namespace has the name.
            PlacementInfeasible: no node can ever run it.
        """
        spec = spec_of(cls)
        session = self._open_session()
        options = self._options
        plan = options.spawn_spec(spec, session, self._owner or session.id, args, kwargs)
        session.owns_actors = True
        asked = SpawnRequested(plan=plan, get_if_exists=options.get_if_exists)
        spawned = unwrap(await control_client(session).spawn(asked))
        return cast(T, self._handle(spawned, spec))

    def at(self, cls: type[T], key: str) -> T:
        """Handle of a keyed class's instance. It is created when it is called, and passivated when no client calls it.

        Raises:
            TypeError: the class has no keys: it is not decorated with `@actor(durable=True, shards=...)`.
        """
        session, spec = self._open_session(), spec_of(cls)
        return cast(T, Handle(session, shard_address(session.names, self._options.namespace, spec, key), spec))

    async def find(self, cls: type[T], name: str) -> T:
        """Find the living actor with this name in the namespace.

        Raises:
            ActorNotFound: no living actor has this name.
            TypeError: it is of another class.
        """
        spec = spec_of(cls)
        plan = await find(self._open_session(), self._options.namespace, name)
        if plan.class_name != spec.class_name:
            raise TypeError(f"actor {name!r} is a {plan.class_name}, not a {spec.class_name}")
        return cast(T, self._handle(plan, spec))

    async def call_by_name(self, name: str, method: str, arguments: dict[str, Any]) -> Any:
        """Call an actor whose class is not known here, as a client in another language does: JSON in, JSON out."""
        session = self._open_session()
        plan = await find(self._open_session(), self._options.namespace, name)
        address = plan.address(session.names)
        return await session.sender.call(address, Untyped(f"{name}.{method}"), method, (), arguments)

    async def kill(self, handle: object) -> bool:
        """End an actor now: the running call is cut off, waiting callers get ActorDied, tells go to the dead letters.

        Returns when it replies to no call any more, or after 5 s if its worker is too busy to end it. False if it was
        dead already."""
        address = address_of(handle)
        if address.key is not None:
            raise ActorHubError(
                f"{handle!r} cannot be killed: its mailbox has other instances, too; give it a method that clears it"
            )
        session = self._open_session()
        if not await control_client(session).kill(address.actor_id, "killed by hub.kill"):
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIMEOUT_SECONDS):
                while await (await session.live_link()).state(address.queue) is not None:
                    await asyncio.sleep(POLL_SECONDS)
        return True

    # ---- timers

    def after(self, seconds: float, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Timer:
        """Send a tell `seconds` from now. Awaiting the timer waits until the broker has it; `cancel` ends it.

        A durable actor's timer is in its journal: it comes once despite crashes. A plain one ends with the instance.

        Raises:
            InvalidArguments: they do not fit the method's annotations; nothing was sent.
            ValueError: the delay is negative or not finite.
        """
        return after(remote_of(method), seconds, args, kwargs)

    def every(self, interval: float | str, method: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> Timer:
        """Send a tell periodically: every `interval` seconds, or by a cron expression (in UTC) such as `"0 3 * * *"`.

        `hub.options(catch_up=...)` says what happens to missed times, at which the actor could not run: "once", the
        default, handles the message once for all of them, "all" once for each, "skip" not before the next time.

        Raises:
            InvalidArguments: they do not fit the method's annotations; nothing was sent.
            ValueError: it is neither an interval above 0 nor a cron expression.
        """
        return every(remote_of(method), interval, self._options.catch_up, args, kwargs)

    # ---- handles

    def adopt(self, handle: T) -> T:
        """Handle of the same actor that works through this hub, for a handle from another hub or another process."""
        return cast(T, Handle(self._open_session(), address_of(handle), spec_behind(cast(Handle, handle))))

    # ---- within

    def _sending(self) -> SubmitOptions:
        options = self._options
        return SubmitOptions(
            namespace=options.namespace,
            resources=options.resources,
            place=options.place,
            priority=options.priority,
            delay=options.delay,
        )

    def _open_clients(self) -> Clients:
        if self._clients is None:
            raise HubClosed("the hub is not open; use it inside `async with Hub() as hub:`")
        return self._clients

    def _open_session(self) -> Session:
        return self._open_clients().session

    def _handle(self, plan: SpawnSpec, spec: ActorSpec) -> Handle:
        session = self._open_session()
        return Handle(session, plan.address(session.names), spec)
