"""Worker process that hosts actors: many mailboxes on one event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

from actorhub.actors.cell import ActorCell
from actorhub.actors.handle import Handle, tell
from actorhub.actors.mailbox import PREFETCH, Mailbox
from actorhub.actors.mailbox_deletion import drain_and_delete
from actorhub.actors.service import ServiceEndpoint, stub
from actorhub.actors.spec import ActorSpec, registry, spec_of
from actorhub.control_api.client import control_client, death_error
from actorhub.control_api.commands import DeleteMailbox, DeleteTaskQueue, StartActor
from actorhub.control_api.directory import cluster_session
from actorhub.control_api.events import ActorFailed, ActorStarted, ActorStopped, MailboxDeleted, NodeEvent
from actorhub.control_api.info import ActorActivity
from actorhub.control_api.services import NodeService, WorkerService
from actorhub.control_api.specs import Activation, SpawnSpec
from actorhub.core.in_flight import InFlightRecorder
from actorhub.durable.instance_pool import InstancePool
from actorhub.durable.interface import MailboxConfig
from actorhub.durable.mailbox import FAILURE_PAUSE_SECONDS, DurableMailbox
from actorhub.errors import ActorDied, ActorHubError, ActorInitFailed, PlacementInfeasible
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.node.worker_process import WorkerConfig, run_worker
from actorhub.settings import Settings
from actorhub.tasks.client_context import ClientContext, Clients
from actorhub.tasks.execution.draining import fail_all_and_delete

log = logging.getLogger(__name__)

# Seconds in which control must take the message that an actor has stopped.
HANDOVER_SECONDS = 2.0
# Stopped actors that the worker remembers; an order to start one of them may still arrive.
MAX_STOPPED_ACTORS = 10_000


@dataclass(eq=False)
class HostedActor:
    """Actor instance that this worker hosts."""

    residency: Activation
    mailbox: Mailbox | DurableMailbox
    cell: ActorCell | DurableMailbox

    @property
    def incarnation(self) -> int:
        return self.residency.incarnation


@dataclass(frozen=True)
class StartingActor:
    """Actor instance that this worker is starting."""

    residency: Activation
    task: asyncio.Task[None]

    @property
    def incarnation(self) -> int:
        return self.residency.incarnation


class ActorWorker:
    """Worker that hosts actors at control's command, until `stop`."""

    def __init__(self, config: WorkerConfig, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.session = cluster_session(settings, name=f"worker {config.worker}")
        self.clients = Clients.of(self.session)
        self.hosted: dict[str, HostedActor] = {}
        self.recorder = InFlightRecorder(config.recorder)
        self._cells: WeakSet[ActorCell] = WeakSet()
        self._stopped: dict[str, int] = {}
        self._is_leaving = False
        self._starting: dict[str, StartingActor] = {}
        queue = self.session.names.worker(config.worker)
        self._endpoint = ServiceEndpoint(self.session, queue, WorkerService, lambda: _WorkerServiceActor(self))
        self._control = control_client(self.session)
        self._node = stub(self.session, self.session.names.node(config.node), NodeService)

    # ---- life

    async def start(self) -> None:
        await self.session.open()
        self.clients.objects.open(self.config.store, self.config.node)
        await self._endpoint.open()
        await tell(self._node.worker_ready, self.config.worker, os.getpid())

    async def stop(self) -> None:
        """Let running calls end (`drain_timeout`), acknowledge them, and return everything else to the broker."""
        await self._endpoint.close()
        # An actor that is still starting is not hosted any more: control starts it elsewhere.
        self._is_leaving = True
        await asyncio.gather(*(self._hand_over(hosted) for hosted in list(self.hosted.values())))
        await self.session.close()

    async def _hand_over(self, hosted: HostedActor) -> None:
        """End an actor and tell control, so that it starts elsewhere before this process has ended."""
        await self._end(hosted, self.settings.drain_timeout)
        residency = hosted.residency
        stopped = ActorStopped(
            actor=residency.plan.actor_id, worker=self.config.worker, incarnation=residency.incarnation
        )
        try:
            async with asyncio.timeout(HANDOVER_SECONDS):
                await self._tell_control(stopped)
        except (TimeoutError, ActorHubError):
            log.debug(
                "control could not be told of %s; it notices by the next report", residency.plan.actor_id, exc_info=True
            )

    async def _tell_control(self, event: NodeEvent) -> None:
        await tell(self._control.notice, event)

    # ---- commands

    def begin(self, order: StartActor) -> None:
        """Start the order's actor, unless a later order about it came first."""
        actor_id, incarnation = order.residency.plan.actor_id, order.residency.incarnation
        if self._stopped.get(actor_id, 0) >= incarnation:
            return
        known = self.hosted.get(actor_id)
        if known is not None and known.incarnation >= incarnation:
            self.session.spawn_task(self._report_started(actor_id, known.incarnation), "actorhub-started")
            return
        starting = self._starting.get(actor_id)
        if starting is None or starting.incarnation < incarnation:
            former = starting.task if starting is not None else None
            task = self.session.spawn_task(self._begin(order, former), f"actorhub-start-{actor_id}")
            begun = self._starting[actor_id] = StartingActor(order.residency, task)
            task.add_done_callback(lambda _: self._started(actor_id, begun))

    def _started(self, actor_id: str, begun: StartingActor) -> None:
        if self._starting.get(actor_id) is begun:
            del self._starting[actor_id]

    async def _begin(self, order: StartActor, former: asyncio.Task[None] | None) -> None:
        """Start an actor, once `former`, the start of an earlier incarnation, has ended."""
        plan, incarnation = order.residency.plan, order.residency.incarnation
        if former is not None:
            await asyncio.wait([former])
        if plan.actor_id in self.hosted:
            await self._end(self.hosted[plan.actor_id], 0.0)
        try:
            spec = self._spec(plan)
            hosted = self._host(order, spec)
            await hosted.cell.start()
        except Exception as exc:
            # Leaving may be the cause of the error.
            if self._is_leaving:
                return
            log.warning("actor %s of %s could not start", plan.actor_id, plan.class_name, exc_info=True)
            await self._report_unable(order, exc)
            return
        if self._is_leaving:
            await hosted.cell.stop(0.0)
            return
        self.hosted[plan.actor_id] = hosted
        await hosted.mailbox.open()
        if self._stopped.get(plan.actor_id, 0) >= incarnation:
            await self.end(plan.actor_id, incarnation)
        else:
            await self._report_started(plan.actor_id, incarnation)

    async def _report_unable(self, order: StartActor, error: Exception) -> None:
        """Report that an actor could not start.

        An actor that may have a state does not die because a process lacks its class: it may start elsewhere, or later.
        """
        if order.residency.plan.options.durable and order.residency.incarnation > 1:
            await asyncio.sleep(FAILURE_PAUSE_SECONDS)
            await self._report_failed(order, error, "life")
        else:
            await self._report_failed(order, error, "birth")

    async def _report_failed(
        self, order: StartActor, error: BaseException, phase: Literal["birth", "life", "gone"]
    ) -> None:
        residency = order.residency
        await self._tell_control(
            ActorFailed(
                actor=residency.plan.actor_id,
                worker=self.config.worker,
                incarnation=residency.incarnation,
                phase=phase,
                error=_explain(error),
            )
        )

    async def _report_started(self, actor_id: str, incarnation: int) -> None:
        await self._tell_control(ActorStarted(actor=actor_id, worker=self.config.worker, incarnation=incarnation))

    def _spec(self, plan: SpawnSpec) -> ActorSpec:
        """Spec of the actor's class: by value if it came signed, else by name from the node's modules."""
        if plan.code is not None:
            return spec_of(self.session.signer.loads(plan.code))
        spec = registry.get(plan.class_name)
        if spec is None:
            module = plan.class_name.partition(":")[0]
            raise ActorInitFailed(
                f"{plan.class_name} is not registered on node {self.config.node}; start it with `actorhub node {module}`"
            )
        return spec

    def _constructor(self, plan: SpawnSpec, spec: ActorSpec) -> Callable[[str], Any]:
        """Constructor of a key's first instance; the key is empty if the class is not keyed.

        It reads the arguments only when it is called: the class may take others by now, and an actor that is
        restored from its journal needs none.
        """
        if spec.options.shards is not None:
            return lambda key: spec.cls(key) if spec.takes_key else spec.cls()

        def create(key: str) -> Any:
            args, kwargs = spec.init.unpack(plan.arguments, plan.codec, self.session.signer)
            return spec.cls(*args, **kwargs)

        return create

    def _host(self, order: StartActor, spec: ActorSpec) -> HostedActor:
        plan, session = order.residency.plan, self.session
        address = plan.address(session.names)
        create = self._constructor(plan, spec)

        def make_cell(key: str, create: Callable[[], Any]) -> ActorCell:
            handle = Handle(session, address.of(key), spec)
            execution = ClientContext(handle, session, address.namespace, clients=self.clients)
            on_failed = functools.partial(self._failed, order)
            cell = ActorCell(execution, spec, create, recorder=self.recorder, on_failed=on_failed)
            self._cells.add(cell)
            return cell

        if plan.options.durable:
            config = MailboxConfig(
                name=plan.actor_id,
                inbox=address.queue,
                journal=session.names.journal(plan.namespace, plan.actor_id),
                dead_letters=session.names.dead(plan.namespace),
                limited=address.limited,
                poison=frozenset(order.poison),
            )
            durable = DurableMailbox(
                session,
                spec,
                config,
                functools.partial(InstancePool, session, spec, make_cell, create),
                on_constructor_failed=functools.partial(self._on_constructor_failed, order),
                on_gone=lambda: self._gone(order),
            )
            return HostedActor(order.residency, durable, durable)
        cell = make_cell("", lambda: create(""))
        # A mailbox limit counts the messages that wait at the broker, so few may wait here.
        prefetch = plan.options.concurrency if address.limited else PREFETCH
        mailbox = Mailbox(
            session,
            address.queue,
            cell,
            DeadLetterQueue(session, plan.namespace),
            prefetch=prefetch,
            poison=order.poison,
            on_gone=lambda: self._gone(order),
        )
        return HostedActor(order.residency, mailbox, cell)

    def _failed(self, order: StartActor, error: BaseException) -> None:
        """An actor with on_error="restart" raised: end this instance, and let control start another."""
        self.session.spawn_task(self._fail(order, error, "life"), "actorhub-failed")

    def _on_constructor_failed(self, order: StartActor, error: BaseException) -> None:
        self.session.spawn_task(self._fail(order, error, "birth"), "actorhub-failed")

    def _gone(self, order: StartActor) -> None:
        error = ActorDied(f"the queue of {order.residency.plan.class_name} was deleted")
        self.session.spawn_task(self._fail(order, error, "gone"), "actorhub-gone")

    async def _fail(self, order: StartActor, error: BaseException, phase: Literal["birth", "life", "gone"]) -> None:
        await self._end_up_to(order.residency.plan.actor_id, order.residency.incarnation)
        await self._report_failed(order, error, phase)

    async def end(self, actor_id: str, incarnation: int) -> None:
        ended = await self._end_up_to(actor_id, incarnation)
        if ended is not None:
            await self._tell_control(
                ActorStopped(actor=actor_id, worker=self.config.worker, incarnation=ended.incarnation)
            )

    async def _end_up_to(self, actor_id: str, incarnation: int) -> HostedActor | None:
        """End the actor's incarnations up to this one; a later order to start one of them has no effect."""
        self._stopped[actor_id] = max(incarnation, self._stopped.pop(actor_id, 0))
        if len(self._stopped) > MAX_STOPPED_ACTORS:
            del self._stopped[next(iter(self._stopped))]
        hosted = self.hosted.get(actor_id)
        if hosted is None or hosted.incarnation > incarnation:
            return None
        await self._end(hosted, 0.0)
        return hosted

    async def _end(self, hosted: HostedActor, patience: float) -> None:
        """End an instance; calls still running after `patience` seconds are cut off, and delivered again elsewhere."""
        if self.hosted.get(hosted.residency.plan.actor_id) is hosted:
            del self.hosted[hosted.residency.plan.actor_id]
        await hosted.cell.stop(patience)
        await self.session.flush(timeout=2.0)
        await hosted.mailbox.close()

    async def delete_mailbox(self, order: DeleteMailbox) -> None:
        plan = order.plan
        error = death_error(order.cause, at_birth=order.at_birth)
        names = self.session.names
        journal = names.journal(plan.namespace, plan.actor_id) if plan.options.durable else None
        dead = DeadLetterQueue(self.session, plan.namespace)
        await drain_and_delete(self.session, plan.queue(names), dead, error, journal=journal)
        await self._tell_control(MailboxDeleted(actor=plan.actor_id))

    async def delete_task_queue(self, order: DeleteTaskQueue) -> None:
        await fail_all_and_delete(self.session, order.queue, PlacementInfeasible(order.cause))
        await self._tell_control(MailboxDeleted(actor=order.queue))

    def inventory(self) -> list[Activation]:
        starting = [each.residency for each in self._starting.values()]
        return [*(hosted.residency for hosted in self.hosted.values()), *starting]

    def activity(self, actor_id: str) -> ActorActivity | None:
        if actor_id not in self.hosted:
            return None
        cells = [cell for cell in self._cells if cell.actor_id == actor_id]  # of a keyed class: those in memory
        return ActorActivity(
            running=[running for cell in cells for running in cell.running],
            waiting=sum(cell.waiting for cell in cells),
        )


class _WorkerServiceActor(WorkerService):
    def __init__(self, worker: ActorWorker) -> None:
        self._worker = worker

    async def start(self, order: StartActor) -> None:
        self._worker.begin(order)

    async def stop(self, actor_id: str, incarnation: int) -> None:
        await self._worker.end(actor_id, incarnation)

    async def delete_mailbox(self, order: DeleteMailbox) -> None:
        await self._worker.delete_mailbox(order)

    async def delete_task_queue(self, order: DeleteTaskQueue) -> None:
        await self._worker.delete_task_queue(order)

    async def inventory(self) -> list[Activation]:
        return self._worker.inventory()

    async def activity(self, actor_id: str) -> ActorActivity | None:
        return self._worker.activity(actor_id)


def _explain(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, ActorInitFailed) and error.__cause__ is not None else error
    if isinstance(cause, ActorHubError):
        return f"{type(cause).__name__}: {cause}"
    return "".join(traceback.format_exception(cause)).rstrip()


def main(config: WorkerConfig, settings: Settings) -> None:
    """Run the process of an actor worker."""
    run_worker(lambda: ActorWorker(config, settings), config, settings)
