"""The control actor: an ordinary actor around the pure state.

It turns each event into commands by `ControlState.handle`, and carries the commands out: tells to workers' and nodes'
desks, answers to those who asked for a spawn, lifecycle events. Every node stands by to run it; its state is in memory,
and a successor rebuilds it from the nodes' reports.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import cast

from actorhub.actor import actor, spec_of
from actorhub.broker import Link, Queue
from actorhub.control.desks import NodeDesk, WorkerDesk, system_ticket
from actorhub.control.messages import (
    Acknowledge,
    ActorInfo,
    ActorPlan,
    Answer,
    AskReport,
    BuryActor,
    Changed,
    Command,
    Event,
    KillAsked,
    NodeInfo,
    NodeReport,
    Notice,
    SessionEnded,
    SpawnAsked,
    StartActor,
    StartWorker,
    StopActor,
    StopWorker,
    Tick,
)
from actorhub.control.state import ControlState
from actorhub.dead import DeadLetters
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable, NameTaken, PlacementInfeasible
from actorhub.ref import Handle, residence, tell
from actorhub.session import Session
from actorhub.settings import Settings

log = logging.getLogger(__name__)

SESSION_CHECK = 2.0  # seconds between looks at whether the owners of actors are still there


@actor(concurrency=100_000)
class Control:
    """Directory of namespaces, names, nodes, workers and actors. Never on the path of a message."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = ControlState(heartbeat=settings.heartbeat, node_timeout=settings.node_timeout)
        self._answers: dict[str, list[asyncio.Future[Answer]]] = {}
        self._gone_since: dict[str, float] = {}
        self._now = 0.0  # seconds for which this control has heard what others say
        self._prepared: set[str] = set()
        self._preparing = asyncio.Lock()

    async def started(self) -> None:
        here = residence.get()
        assert here is not None
        self._session: Session = here.session
        self._session.spawn_task(self._tick(), "actorhub-control-tick")
        self._session.spawn_task(self._check_sessions(), "actorhub-control-sessions")

    # ---- what hubs ask

    async def spawn(self, asked: SpawnAsked) -> ActorPlan:
        """Claims the name, makes the mailbox, chooses a worker; returns the actor's plan, or that of the one which has the
        name. Asking again with the same actor_id gives the same answer.

        Raises:
            NameTaken, PlacementInfeasible: nothing was made.
        """
        plan = asked.plan
        queue = self._session.names.actor(plan.namespace, plan.actor_id)
        taken = plan.name is not None and self._state.find(plan.namespace, plan.name) is not None
        if not taken:
            await self._prepare(plan.namespace)
            link = await self._session.live_link()
            await link.declare(Queue(queue, single_active=True, limit=plan.options.mailbox_limit))
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers.setdefault(plan.actor_id, []).append(answered)
        self._handle(asked)
        answer = await answered
        if not answer.created and not taken:
            await self._withdraw(queue)
        if answer.plan is None:
            kind = NameTaken if answer.error == "name taken" else PlacementInfeasible
            raise kind(answer.message)
        return answer.plan

    async def find(self, namespace: str, name: str) -> ActorPlan:
        """Raises:
        ActorNotFound: no living actor has the name.
        """
        found = self._state.find(namespace, name)
        if found is None:
            raise ActorNotFound(
                f"no actor is called {name!r} in namespace {namespace!r}; spawn it with that name first"
            )
        return found

    async def describe(self, actor_id: str) -> ActorInfo | None:
        return self._state.describe(actor_id)

    async def kill(self, actor_id: str, cause: str) -> bool:
        """False where it was dead already, or is not known."""
        known = self._state.describe(actor_id)
        self._handle(KillAsked(actor=actor_id, cause=cause))
        return known is not None and known.state != "dead"

    async def end_session(self, session_id: str) -> None:
        """Its actors end with it."""
        self._handle(SessionEnded(session=session_id))

    async def actors(self, namespace: str | None = None) -> list[ActorInfo]:
        return self._state.actors(namespace)

    async def nodes(self) -> list[NodeInfo]:
        return self._state.nodes()

    # ---- what nodes and workers tell

    async def report(self, report: NodeReport) -> None:
        self._handle(report)

    async def notice(self, event: Notice) -> None:
        self._handle(event)

    # ---- carrying out

    def _handle(self, event: Event) -> None:
        for command in self._state.handle(event, self._now):
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Answer():
                for waiting in self._answers.pop(command.actor_id, ()):
                    if not waiting.done():
                        waiting.set_result(command)
            case StartActor():
                self._order(self._worker(command.worker).start, command)
            case StopActor():
                self._order(self._worker(command.worker).stop, command.actor, command.incarnation)
            case BuryActor():
                self._order(self._worker(command.worker).bury, command)
            case StartWorker():
                self._order(self._node(command.node).start_worker, command.worker, command.actor)
            case StopWorker():
                self._order(self._node(command.node).stop_worker, command.worker)
            case Acknowledge():
                self._order(self._node(command.node).acknowledge)
            case AskReport():
                self._order(self._node(command.node).report)
            case Changed():
                info = command.actor
                log.info("actor %s of %s is %s", info.id, info.class_name, info.state, extra={"error": info.last_error})

    def _order(self, method: object, *args: object) -> None:
        self._session.spawn_task(self._tell(method, *args), "actorhub-control-order")

    async def _tell(self, method: object, *args: object) -> None:
        try:
            await tell(method, *args)  # type: ignore[arg-type]
        except ActorHubError as exc:
            log.warning("an order of control did not reach %r: %s", method, exc)

    def _worker(self, worker: str) -> WorkerDesk:
        ticket = system_ticket(self._session.names.worker(worker), WorkerDesk)
        return cast(WorkerDesk, Handle(self._session, ticket, spec_of(WorkerDesk)))

    def _node(self, node: str) -> NodeDesk:
        ticket = system_ticket(self._session.names.node(node), NodeDesk)
        return cast(NodeDesk, Handle(self._session, ticket, spec_of(NodeDesk)))

    async def _prepare(self, namespace: str) -> None:
        """The namespace's dead letters have a place before its first actor has a mailbox."""
        if namespace not in self._prepared:
            async with self._preparing:
                if namespace not in self._prepared:
                    await DeadLetters(self._session, namespace).declare()
                    self._prepared.add(namespace)

    async def _withdraw(self, queue: str) -> None:
        try:
            link = await self._session.live_link()
            await link.delete(queue, only_if_empty=True)
        except BrokerUnavailable:
            log.debug("the queue %s of a refused spawn stays", queue, exc_info=True)

    # ---- time

    async def _tick(self) -> None:
        """Control's clock stands still while control itself is cut off from the broker: it cannot hear anybody then."""
        before, connected = time.monotonic(), True
        while True:
            await asyncio.sleep(self._settings.heartbeat / 2)
            now, was_connected = time.monotonic(), connected
            connected = self._session.link is not None
            if connected and was_connected:
                self._now += now - before
                self._handle(Tick())
            before = now

    async def _check_sessions(self) -> None:
        """A session is gone when nobody consumes its reply queue for `session_timeout`."""
        while True:
            await asyncio.sleep(SESSION_CHECK)
            owners = self._state.owners()
            self._gone_since = {owner: since for owner, since in self._gone_since.items() if owner in owners}
            try:
                link = await self._session.live_link()
                for owner in owners:
                    await self._check_session(link, owner)
            except BrokerUnavailable:
                continue

    async def _check_session(self, link: Link, owner: str) -> None:
        state = await link.state(self._session.names.reply(owner))
        if state is not None and state.consumers:
            self._gone_since.pop(owner, None)
        elif self._now - self._gone_since.setdefault(owner, self._now) > self._settings.session_timeout:
            self._handle(SessionEnded(session=owner))
