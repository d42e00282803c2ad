"""The control actor: a durable actor around the pure state machine.

`ControlState.handle` turns each event into commands: replies, orders to the services of workers and nodes, queues to declare.
All of them are effects of the message that brought the event, and leave with its commit. Every node is ready to run the control
actor (`standby.py`).
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
from actorhub.control_api.services import PAGE_ENTRIES, ControlService, NodeService, WorkerService
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

SESSION_CHECK_INTERVAL_SECONDS = 2.0
"""Interval at which control checks whether the sessions that own actors are still connected."""


@service(
    durable=True, reads=("find", "describe", "task_queues", "served", "demand", "actors", "group", "groups", "nodes")
)
class Control(ControlService):
    """Directory and scheduler of a cluster. It is never on the path of a user's message.

    No method waits for anything but its own commit.

    Args:
        settings: timeouts and the journal's retention.
        link: the broker link on which the standby took control over.
        rows: the last value of each row of the journal.
    """

    def __init__(self, settings: Settings, link: Link, rows: Mapping[str, bytes]) -> None:
        self._settings = settings
        self._link = link
        self._gone_since: dict[str, float] = {}
        self._last_tick = time.monotonic()
        # Control's clock, in seconds. It goes on only with messages to control: see `tick`.
        self._now = time.time()
        self.state = ControlState.restored(rows, node_timeout=settings.node_timeout, now=self._now)
        self._tasks: list[asyncio.Task[Any]] = []
        self._queue_monitor = QueueDepthMonitor(link, self.state, self._report_depths)

    async def started(self) -> None:
        execution = current_execution.get()
        assert execution is not None
        self._session: Session = execution.session
        self._me = ref(self)
        self._tasks = [
            self._session.spawn_task(self._keep_ticking(), "actorhub-control-tick"),
            self._session.spawn_task(self._check_sessions(), "actorhub-control-sessions"),
            self._session.spawn_task(self._queue_monitor.run(), "actorhub-control-queues"),
        ]

    async def stopping(self) -> None:
        for task in self._tasks:
            task.cancel()

    # ---- calls of hubs

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
        return list(itertools.islice(self.state.groups(namespace, after), PAGE_ENTRIES))

    async def find(self, namespace: str, name: str) -> SpawnSpec | None:
        return self.state.find(namespace, name)

    async def describe(self, actor_id: str) -> ActorInfo | None:
        return self.state.describe(actor_id)

    async def kill(self, actor_id: str, cause: str) -> bool:
        actor = self.state.describe(actor_id)
        if actor is None or actor.state == "dead":
            return False
        await self._handle(KillRequested(actor=actor_id, cause=cause))
        return True

    async def serve(self, queue: str, needs: Requirements | None = None, priority: int = 0) -> TaskQueueReply:
        namespace = self._session.names.namespace_of(queue)
        used = TaskQueueUsed(queue=queue, namespace=namespace, needs=needs, priority=priority)
        reply = await self._reply_to(used, TaskQueueReply)
        self._queue_monitor.mark_active(queue)
        return reply

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
        return list(itertools.islice(self.state.actors(namespace, after), PAGE_ENTRIES))

    async def nodes(self) -> list[NodeInfo]:
        return self.state.nodes()

    # ---- reports of nodes and workers

    async def report(self, report: NodeReport) -> None:
        await self._handle(report)

    async def notice(self, event: NodeEvent) -> None:
        await self._handle(event)

    async def tasks_wait(self, waiting: dict[str, int]) -> None:
        """Depths of task queues with dedicated slots, as the queue monitor has read them."""
        await self._handle(QueueDepths(waiting=waiting))

    async def tick(self) -> None:
        """Advance control's clock. Control sends this to itself, through its own inbox.

        So the clock stands still while the broker delivers nothing, and while older messages wait in the inbox: control does
        not take a node for silent whose report it has not read yet. The clock of a control that has lost its ownership does
        not advance at all.
        """
        now = time.monotonic()
        self._now += min(now - self._last_tick, self._settings.heartbeat)
        self._last_tick = now
        await self._handle(Tick())

    # ---- commands

    async def _handle(self, event: Event) -> list[Reply]:
        """Execute the commands that follow from an event. Returns the replies among them."""
        replies: list[Reply] = []
        for command in self.state.handle(event, self._now):
            if isinstance(command, SpawnReply | GroupReply | TaskQueueReply):
                replies.append(command)
            else:
                await self._execute(command)
        return replies

    async def _reply_to(self, event: Event, kind: type[R]) -> R:
        """As `_handle`, for an event to which the state replies once, with a command of this kind."""
        [reply] = [reply for reply in await self._handle(event) if isinstance(reply, kind)]
        return reply

    async def _execute(self, command: Action) -> None:
        """Add a command to the effects of the message that is handled. They leave with its commit."""
        handled = effects()
        assert handled is not None
        match command:
            case CreateMailbox():
                retention = self._settings.journal_retention
                handled.queues += command.plan.queues(self._session.names, retention)
            case MakeDeadLetters():
                handled.queues.append(dead_letter_stream(self._session.names.dead(command.namespace)))
            case StartActor():
                await tell(self._worker(command.worker).start, command)
            case StopActor():
                await tell(self._worker(command.worker).stop, command.actor, command.incarnation)
            case DeleteMailbox():
                await tell(self._worker(command.worker).delete_mailbox, command)
            case MakeQueue():
                handled.queues.append(task_queue(command.queue))
            case DeleteTaskQueue():
                await tell(self._worker(command.worker).delete_task_queue, command)
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

    # ---- clock and sessions

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat / 2)
            await self._tell(self._me.tick)

    async def _check_sessions(self) -> None:
        """End sessions whose reply queue has had no consumer for `session_timeout`."""
        while True:
            await asyncio.sleep(SESSION_CHECK_INTERVAL_SECONDS)
            owners = self.state.sessions()
            self._gone_since = {owner: since for owner, since in self._gone_since.items() if owner in owners}
            for owner in owners:
                await self._check_session(owner)

    async def _check_session(self, owner: str) -> None:
        try:
            state = await self._link.state(self._session.names.reply(owner))
        except BrokerUnavailable:
            # The broker's node that holds this queue is down. The other queues may still be read.
            self._gone_since.pop(owner, None)
            return
        if state is not None and state.consumers:
            self._gone_since.pop(owner, None)
        elif self._now - self._gone_since.setdefault(owner, self._now) > self._settings.session_timeout:
            await self._tell(self._me.end_session, owner)

    async def _report_depths(self, depths: dict[str, int]) -> None:
        await self._tell(self._me.tasks_wait, depths)

    async def _tell(self, method: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Send control a message through its own inbox. A failure is only logged: the next round sends it again."""
        try:
            await tell(method, *args, **kwargs)
        except ActorHubError:
            log.debug("control could not send a message to itself", exc_info=True)
