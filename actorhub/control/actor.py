"""The control actor: an ordinary actor around the pure state.

It turns each event into commands by `ControlState.handle`, and carries the commands out: records to the journal, tells to
workers' and nodes' desks, answers to those who asked for a spawn. Every node stands by to run it (`standby.py`); its state is
in memory, and a successor has it from the journal and from the nodes' reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, cast

from actorhub.actor import actor, spec_of
from actorhub.broker import Link
from actorhub.control.desks import NodeDesk, WorkerDesk, system_ticket
from actorhub.control.journal import Journal
from actorhub.control.messages import (
    Acknowledge,
    ActorInfo,
    ActorPlan,
    Answer,
    AskReport,
    Born,
    BuryActor,
    Changed,
    Command,
    Died,
    Event,
    Forget,
    KillAsked,
    NodeInfo,
    NodeReport,
    Notice,
    Order,
    QueueInfo,
    QueueUsed,
    ServeQueues,
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
from actorhub.errors import (
    ActorDied,
    ActorHubError,
    ActorNotFound,
    BrokerUnavailable,
    NameTaken,
    PlacementInfeasible,
)
from actorhub.handle import Handle, tell
from actorhub.ref import residence
from actorhub.session import Session
from actorhub.settings import Settings

log = logging.getLogger(__name__)

_REFUSALS = {"name taken": NameTaken, "infeasible": PlacementInfeasible, "parent dead": ActorDied}
KILLING = 5.0  # seconds that a killed actor's end is waited for
SESSION_CHECK = 2.0  # seconds between looks at whether the owners of actors are still there


@actor(concurrency=100_000)
class Control:
    """Directory of namespaces, names, nodes, workers and actors. Never on the path of a message."""

    def __init__(self, settings: Settings, link: Link) -> None:
        self._settings = settings
        self._link = link
        self._gone_since: dict[str, float] = {}
        self._heard = time.monotonic()
        self._now = 0.0  # seconds for which this control has heard what others say
        self._prepared: set[str] = set()
        self._preparing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._dying: dict[str, asyncio.Event] = {}  # who was killed and is not buried yet

    async def started(self) -> None:
        here = residence.get()
        assert here is not None
        assert here.handle is not None
        self._session: Session = here.session
        self._me = cast(Control, here.handle)
        self._journal = Journal(
            self._link, self._session.names.control_journal, lambda reason: self._session.renew(self._link, reason)
        )
        past = await self._journal.open()
        self._state = ControlState(node_timeout=self._settings.node_timeout, epoch=past.epoch)
        if not past.first:
            log.info("control goes on with %d actors", len(past.plans) - len(past.deaths))
            self._carry_out_all(self._state.restore(past.plans, past.deaths, self._now))
        self._heard = time.monotonic()
        self._go_on(self._keep_ticking(), "actorhub-control-tick")
        self._go_on(self._check_sessions(), "actorhub-control-sessions")

    async def stopping(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await self._journal.close()

    def _go_on(self, coroutine: Any, name: str) -> None:
        """For as long as this control is control."""
        task = self._session.spawn_task(coroutine, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- what hubs ask

    async def spawn(self, asked: SpawnAsked) -> ActorPlan:
        """Claims the name, makes the mailbox, chooses a worker; returns the actor's plan, or that of the one which has the
        name. Asking again with the same actor_id gives the same answer.

        Raises:
            NameTaken, PlacementInfeasible, ActorDied: nothing was made. ActorDied: the actor that spawns it is dead.
        """
        plan = asked.plan
        taken = plan.name is not None and self._state.find(plan.namespace, plan.name) is not None
        if not taken:
            await self._make_mailbox(plan)
        answer = self._handle(asked)
        assert answer is not None
        if not answer.created and not taken:
            await self._withdraw(plan)
        if answer.plan is None:
            assert answer.error is not None
            raise _REFUSALS[answer.error](answer.message)
        await self._journal.written(answer.plan.actor_id)
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
        await self._journal.written(found.actor_id)
        return found

    async def describe(self, actor_id: str) -> ActorInfo | None:
        return self._state.describe(actor_id)

    async def kill(self, actor_id: str, cause: str) -> bool:
        """False where it was dead already, or is not known. Returns when it answers nobody any more and its callers have been
        told; after KILLING seconds in any case, for its worker may be too busy to end it."""
        known = self._state.describe(actor_id)
        if known is None or known.state == "dead":
            return False
        buried = self._dying.setdefault(actor_id, asyncio.Event())
        self._handle(KillAsked(actor=actor_id, cause=cause))
        await self._journal.written(actor_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILLING):
                await buried.wait()
        return True

    async def serve(self, queue: str) -> None:
        """Somebody sends tasks to this queue: every node's slots shall take from it."""
        try:
            await self._prepare(self._session.names.namespace_of(queue))
        except BrokerUnavailable:
            await self._last_moment()
        self._handle(QueueUsed(queue=queue))

    async def task_queues(self, namespace: str | None = None) -> list[QueueInfo]:
        """Those of the namespace; of all namespaces where none is named."""
        names, found = self._session.names, list[QueueInfo]()
        for name in self._state.queues():
            of = names.namespace_of(name)
            if namespace is None or of == namespace:
                state = await self._link.state(name)
                waiting, slots = (state.messages, state.consumers) if state is not None else (0, 0)
                word = name.removeprefix(names.task(of, ""))
                found.append(QueueInfo(queue=word, namespace=of, waiting=waiting, slots=slots))
        return found

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

    async def tick(self) -> None:
        """Control's clock: what control tells itself through its own queue.

        It stands still while the broker brings nothing, and while older messages wait before it: control does not take for
        silence what it has not heard yet. A deposed control has no time at all.
        """
        now = time.monotonic()
        self._now += min(now - self._heard, self._settings.heartbeat)
        self._heard = now
        self._handle(Tick())

    # ---- carrying out

    def _handle(self, event: Event) -> Answer | None:
        return self._carry_out_all(self._state.handle(event, self._now))

    def _carry_out_all(self, commands: list[Command]) -> Answer | None:
        """Returns the answer among them; whoever asked gives it when the journal has what it says."""
        answer = None
        for command in commands:
            if isinstance(command, Answer):
                answer = command
            else:
                self._carry_out(command)
        return answer

    def _carry_out(self, command: Order) -> None:
        match command:
            case Born() | Died():
                self._journal.write(command)
            case Forget():
                self._journal.forget(command.actor)
                if (buried := self._dying.pop(command.actor, None)) is not None:
                    buried.set()
            case StartActor():
                self._order(self._worker(command.worker).start, command, about=command.residency.plan.actor_id)
            case StopActor():
                stop = self._worker(command.worker).stop
                self._order(stop, command.actor, command.incarnation, about=command.actor)
            case BuryActor():
                self._order(self._worker(command.worker).bury, command, about=command.plan.actor_id)
            case StartWorker():
                self._order(self._node(command.node).start_worker, command.worker, command.actor)
            case StopWorker():
                self._order(self._node(command.node).stop_worker, command.worker)
            case Acknowledge():
                self._order(self._node(command.node).acknowledge)
            case ServeQueues():
                self._order(self._node(command.node).serve, command.queues)
            case AskReport():
                self._order(self._node(command.node).report)
            case Changed():
                info = command.actor
                level = logging.WARNING if info.state == "restarting" and info.last_error else logging.DEBUG
                cause = f": {info.last_error}" if info.last_error else ""
                log.log(level, "actor %s of %s is %s%s", info.id, info.class_name, info.state, cause)

    def _order(self, method: object, *args: object, about: str = "") -> None:
        """`about`: the actor that the order is about. No order goes out before the journal has what it follows from."""
        self._go_on(self._tell(method, *args, about=about), "actorhub-control-order")

    async def _tell(self, method: object, *args: object, about: str = "") -> None:
        await self._journal.written(about)
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

    async def _make_mailbox(self, plan: ActorPlan) -> None:
        try:
            await self._prepare(plan.namespace)
            for each in plan.queues(self._session.names, self._settings.journal_retention):
                await self._link.declare(each)
        except BrokerUnavailable:
            await self._last_moment()

    async def _prepare(self, namespace: str) -> None:
        """Its dead letters have a place before anybody can need one."""
        if namespace not in self._prepared:
            async with self._preparing:
                if namespace not in self._prepared:
                    await DeadLetters(self._session, namespace).declare()
                    self._prepared.add(namespace)

    async def _last_moment(self) -> None:
        """The link is lost, and this control with it. It says nothing more: the next one has its messages."""
        await asyncio.get_running_loop().create_future()

    async def _withdraw(self, plan: ActorPlan) -> None:
        """Nobody has a handle of it."""
        for queue in plan.queues(self._session.names, self._settings.journal_retention):
            try:
                await self._link.delete(queue.name)
            except BrokerUnavailable:
                log.debug("the queue %s of a refused spawn stays", queue.name, exc_info=True)

    # ---- time

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat / 2)
            await self._tell(self._me.tick)

    async def _check_sessions(self) -> None:
        """A session is gone when nobody consumes its reply queue for `session_timeout`."""
        while True:
            await asyncio.sleep(SESSION_CHECK)
            owners = self._state.sessions()
            self._gone_since = {owner: since for owner, since in self._gone_since.items() if owner in owners}
            for owner in owners:
                await self._check_session(owner)

    async def _check_session(self, owner: str) -> None:
        state = await self._link.state(self._session.names.reply(owner))
        if state is not None and state.consumers:
            self._gone_since.pop(owner, None)
        elif self._now - self._gone_since.setdefault(owner, self._now) > self._settings.session_timeout:
            self._handle(SessionEnded(session=owner))
