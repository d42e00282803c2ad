"""The control actor: a durable actor around the pure state.

It turns each event into commands by `ControlState.handle`, and what they say leaves with the commit of the message that brought
the event: answers, orders to workers' and nodes' services, queues to be made. Every node stands by to run it (`standby.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from actorhub.actors.execution import current_execution, ref
from actorhub.actors.handle import tell
from actorhub.actors.service import service, stub
from actorhub.broker import Link
from actorhub.control.queue_monitor import QueueDepthMonitor
from actorhub.control.state import ControlState
from actorhub.control_api.commands import (
    Acknowledge,
    Action,
    ActorStateChanged,
    CreateMailbox,
    DeleteMailbox,
    DeleteTaskQueue,
    GroupReply,
    MakeDeadLetters,
    MakeQueue,
    RequestReport,
    ServeQueues,
    SpawnReply,
    StartActor,
    StartSlot,
    StartWorker,
    StopActor,
    StopSlot,
    StopWorker,
    TaskQueueReply,
)
from actorhub.control_api.events import (
    Event,
    GroupRemoved,
    GroupRequested,
    KillRequested,
    NodeEvent,
    NodeReport,
    QueueDepths,
    SessionEnded,
    SpawnRequested,
    TaskQueueUsed,
    Tick,
)
from actorhub.control_api.info import ActorInfo, DedicatedQueueInfo, Demand, GroupInfo, NodeInfo
from actorhub.control_api.requirements import Requirements
from actorhub.control_api.services import PAGE, ControlService, NodeService, WorkerService
from actorhub.control_api.specs import SpawnSpec
from actorhub.errors import ActorHubError, BrokerUnavailable
from actorhub.messaging.context import effects
from actorhub.messaging.session import Session
from actorhub.messaging.topology import dead_letter_stream, task_queue
from actorhub.settings import Settings

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R", SpawnReply, GroupReply, TaskQueueReply)
Reply = SpawnReply | GroupReply | TaskQueueReply

SESSION_CHECK = 2.0  # seconds between looks at whether the owners of actors are still there


@service(
    durable=True, reads=("find", "describe", "task_queues", "served", "demand", "actors", "group", "groups", "nodes")
)
class Control(ControlService):
    """Directory of namespaces, names, nodes, workers and actors. Never on the path of a message. No method waits for anything:
    what it does is a commit."""

    def __init__(self, settings: Settings, link: Link, known: Mapping[str, bytes]) -> None:
        self._settings = settings
        self._link = link
        self._gone_since: dict[str, float] = {}
        self._heard = time.monotonic()
        self._now = time.time()  # stands still while this control does not hear what others say
        self.state = ControlState.restored(known, node_timeout=settings.node_timeout, now=self._now)
        self._tasks: list[asyncio.Task[Any]] = []
        self._watch = QueueDepthMonitor(link, self.state, self._tell_what_waits)

    async def started(self) -> None:
        here = current_execution.get()
        assert here is not None
        self._session: Session = here.session
        self._me = ref(self)
        self._tasks = [
            self._session.spawn_task(self._keep_ticking(), "actorhub-control-tick"),
            self._session.spawn_task(self._check_sessions(), "actorhub-control-sessions"),
            self._session.spawn_task(self._watch.keep_looking(), "actorhub-control-queues"),
        ]

    async def stopping(self) -> None:
        for task in self._tasks:
            task.cancel()

    # ---- what hubs ask

    async def spawn(self, asked: SpawnRequested) -> SpawnReply:
        return await self._reply_to(asked, SpawnReply)

    async def make_group(self, asked: GroupRequested) -> GroupReply:
        return await self._reply_to(asked, GroupReply)

    async def remove_group(self, group: str) -> bool:
        if self.state.group(group) is None:
            return False
        await self._handle(GroupRemoved(group=group, cause=f"its placement group {group} was removed"))
        return True

    async def group(self, group: str) -> GroupInfo | None:
        return self.state.group(group)

    async def groups(self, namespace: str | None = None, after: str | None = None) -> list[GroupInfo]:
        return list(itertools.islice(self.state.groups(namespace, after), PAGE))

    async def find(self, namespace: str, name: str) -> SpawnSpec | None:
        return self.state.find(namespace, name)

    async def describe(self, actor_id: str) -> ActorInfo | None:
        return self.state.describe(actor_id)

    async def kill(self, actor_id: str, cause: str) -> bool:
        known = self.state.describe(actor_id)
        if known is None or known.state == "dead":
            return False
        await self._handle(KillRequested(actor=actor_id, cause=cause))
        return True

    async def serve(self, queue: str, needs: Requirements | None = None, priority: int = 0) -> TaskQueueReply:
        namespace = self._session.names.namespace_of(queue)
        used = TaskQueueUsed(queue=queue, namespace=namespace, needs=needs, priority=priority)
        answer = await self._reply_to(used, TaskQueueReply)
        self._watch.look_at(queue)
        return answer

    async def task_queues(self, namespace: str | None = None) -> list[str]:
        names, queues = self._session.names, self.state.queues()
        return [queue for queue in queues if namespace is None or names.namespace_of(queue) == namespace]

    async def served(self, namespace: str | None = None) -> list[DedicatedQueueInfo]:
        return list(self.state.task_queues(namespace))

    async def demand(self) -> list[Demand]:
        return self.state.demand()

    async def end_session(self, session_id: str) -> None:
        await self._handle(SessionEnded(session=session_id))

    async def actors(self, namespace: str | None = None, after: str | None = None) -> list[ActorInfo]:
        return list(itertools.islice(self.state.actors(namespace, after), PAGE))

    async def nodes(self) -> list[NodeInfo]:
        return self.state.nodes()

    # ---- what nodes and workers tell

    async def report(self, report: NodeReport) -> None:
        await self._handle(report)

    async def notice(self, event: NodeEvent) -> None:
        await self._handle(event)

    async def tasks_wait(self, waiting: dict[str, int]) -> None:
        """What control's watch has seen in the queues that have slots of their own."""
        await self._handle(QueueDepths(waiting=waiting))

    async def tick(self) -> None:
        """Control's clock: what control tells itself through its own queue.

        It stands still while the broker brings nothing, and while older messages wait before it: control does not take for
        silence what it has not heard yet. A deposed control has no time at all.
        """
        now = time.monotonic()
        self._now += min(now - self._heard, self._settings.heartbeat)
        self._heard = now
        await self._handle(Tick())

    # ---- carrying out

    async def _handle(self, event: Event) -> list[Reply]:
        """Carry out the commands that follow from an event. Returns the replies among them."""
        replies: list[Reply] = []
        for command in self.state.handle(event, self._now):
            if isinstance(command, SpawnReply | GroupReply | TaskQueueReply):
                replies.append(command)
            else:
                await self._carry_out(command)
        return replies

    async def _reply_to(self, event: Event, kind: type[R]) -> R:
        """As `_handle`, for an event to which the state replies once, with a command of this kind."""
        [reply] = [reply for reply in await self._handle(event) if isinstance(reply, kind)]
        return reply

    async def _carry_out(self, command: Action) -> None:
        """All of it leaves with the commit."""
        leaving = effects()
        assert leaving is not None
        match command:
            case CreateMailbox():
                retention = self._settings.journal_retention
                leaving.queues += command.plan.queues(self._session.names, retention)
            case MakeDeadLetters():
                leaving.queues.append(dead_letter_stream(self._session.names.dead(command.namespace)))
            case StartActor():
                await tell(self._worker(command.worker).start, command)
            case StopActor():
                await tell(self._worker(command.worker).stop, command.actor, command.incarnation)
            case DeleteMailbox():
                await tell(self._worker(command.worker).bury, command)
            case MakeQueue():
                leaving.queues.append(task_queue(command.queue))
            case DeleteTaskQueue():
                await tell(self._worker(command.worker).bury_queue, command)
            case StartWorker():
                await tell(self._node(command.node).start_worker, command.worker, command.actor, command.gpu)
            case StartSlot():
                await tell(self._node(command.node).start_slot, command)
            case StopSlot():
                await tell(self._node(command.node).stop_slot, command.slot, command.now)
            case StopWorker():
                await tell(self._node(command.node).stop_worker, command.worker)
            case Acknowledge():
                await tell(self._node(command.node).acknowledge)
            case ServeQueues():
                await tell(self._node(command.node).serve, command.queues)
            case RequestReport():
                await tell(self._node(command.node).report)
            case ActorStateChanged():
                info = command.actor
                level = logging.WARNING if info.state == "restarting" and info.last_error else logging.DEBUG
                cause = f": {info.last_error}" if info.last_error else ""
                log.log(level, "actor %s of %s is %s%s", info.id, info.class_name, info.state, cause)

    def _worker(self, worker: str) -> WorkerService:
        return stub(self._session, self._session.names.worker(worker), WorkerService)

    def _node(self, node: str) -> NodeService:
        return stub(self._session, self._session.names.node(node), NodeService)

    # ---- time

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat / 2)
            await self._tell(self._me.tick)

    async def _check_sessions(self) -> None:
        """A session is gone when nobody consumes its reply queue for `session_timeout`."""
        while True:
            await asyncio.sleep(SESSION_CHECK)
            owners = self.state.sessions()
            self._gone_since = {owner: since for owner, since in self._gone_since.items() if owner in owners}
            for owner in owners:
                await self._check_session(owner)

    async def _check_session(self, owner: str) -> None:
        try:
            state = await self._link.state(self._session.names.reply(owner))
        except BrokerUnavailable:  # with the broker's node that holds it; the others are to be looked at for all that
            self._gone_since.pop(owner, None)
            return
        if state is not None and state.consumers:
            self._gone_since.pop(owner, None)
        elif self._now - self._gone_since.setdefault(owner, self._now) > self._settings.session_timeout:
            await self._tell(self._me.end_session, owner)

    async def _tell_what_waits(self, waiting: dict[str, int]) -> None:
        await self._tell(self._me.tasks_wait, waiting)

    async def _tell(self, method: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await tell(method, *args, **kwargs)
        except ActorHubError:
            log.debug("control does not hear from itself", exc_info=True)
