"""Explanation, in words, why something waits: from control, the broker, the worker and the journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from actorhub.actors.handle import Handle, address_of
from actorhub.actors.service import stub
from actorhub.broker import QueueState
from actorhub.control_api.client import control_client, find
from actorhub.control_api.info import ActorActivity, ActorInfo
from actorhub.control_api.services import WorkerService
from actorhub.core.addressing import ActorAddress, actor_id_of
from actorhub.durable.history import History, HistoryEntry
from actorhub.errors import ActorHubError, ActorNotFound, BrokerUnavailable
from actorhub.messaging.calls import Call
from actorhub.messaging.outbox import ActorOutbox
from actorhub.messaging.session import Session
from actorhub.tasks.future import Future
from actorhub.tasks.outbox import TaskOutbox

T = TypeVar("T")

REPLY_TIMEOUT_SECONDS = 3.0
"""Time for a reply of control, a worker or the broker; after it they are said not to reply."""


class Explanation(BaseModel):
    """Reason why an actor, a call or a task waits. Unknown fields are None."""

    model_config = ConfigDict(defer_build=True, frozen=True)

    text: str
    """The reason in sentences, one a line."""
    actor: ActorInfo | None = None
    """The actor, as control knows it."""
    waiting: int | None = None
    """Number of messages in its queue that no consumer has taken."""
    consumers: int | None = None
    """Number of consumers of its queue."""
    doing: ActorActivity | None = None
    """Work of its instance, as its worker says."""
    blocked: str | None = None
    """Reason why the broker takes no messages."""
    epoch: HistoryEntry | None = None
    """The last epoch in a durable actor's journal."""
    commit: HistoryEntry | None = None
    """The last commit in a durable actor's journal."""


class Explainer:
    def __init__(self, session: Session, namespace: str) -> None:
        self._session = session
        self._control = control_client(session)
        self._namespace = namespace

    async def explain(self, what: object) -> Explanation:
        """Explain why an actor, a call or a task waits.

        Raises:
            TypeError: it is neither an actor's handle or name, nor a call or a task.
        """
        if self._session.link is None:
            return self._told(["This process has no connection to the broker, and tries to get one."])
        if isinstance(what, Future):
            return await self._call(what.settled, what.label)
        if isinstance(what, Call):
            return await self._call(what)
        if isinstance(what, str):
            return await self._word(what)
        if not isinstance(what, Handle):
            raise TypeError(
                f"{what!r} is not a handle, the name of an actor, a call or a future; explain() takes one of these"
            )
        address = address_of(what)
        return await self._actor(address, f"{address.class_name} {address.name or address.actor_id}")

    # ---- actors

    async def _word(self, word: str) -> Explanation:
        try:
            info = await self._ask(lambda: self._control.describe(word))
            if info is None:
                plan = await self._ask(lambda: find(self._session, self._namespace, word))
                return await self._actor(plan.address(self._session.names), f"{plan.class_name} {word}")
        except ActorNotFound as exc:
            return self._told([f"{exc}."])
        except TimeoutError:
            return self._told([_SILENT])
        names, of = self._session.names, info.namespace
        queue = names.durable(of, word) if info.durable else names.actor(of, word)
        address = ActorAddress(
            queue=queue, actor_id=word, namespace=of, class_name=info.class_name, durable=info.durable
        )
        return await self._actor(address, f"{info.class_name} {info.name or word}")

    async def _actor(self, address: ActorAddress, who: str) -> Explanation:
        info: ActorInfo | None = None
        try:
            info = await self._ask(lambda: self._control.describe(address.actor_id))
            said = [_state(who, info)]
        except (TimeoutError, ActorNotFound):
            said = [_SILENT]
        queue: QueueState | None = None
        try:
            queue = await self._queue(address.queue)
            said += self._of_queue(queue, info)
        except (TimeoutError, BrokerUnavailable):
            said.append(_BROKER_SILENT)
        doing: ActorActivity | None = None
        if info is not None and info.state == "running" and info.worker is not None and queue is not None:
            doing, words = await self._doing(info.worker, address.actor_id)
            said += words
        epoch: HistoryEntry | None = None
        commit: HistoryEntry | None = None
        if address.durable and queue is not None:
            try:
                epoch, commit = await History(self._session, address).owner()
                said.append(_ownership(epoch, commit))
            except ActorHubError as exc:
                said.append(f"Its journal cannot be read: {exc}.")
        found = self._told(said)
        changes = {"actor": info, "doing": doing, "epoch": epoch, "commit": commit}
        counts = {"waiting": queue.messages, "consumers": queue.consumers} if queue is not None else {}
        return found.model_copy(update={**changes, **counts})

    def _of_queue(self, queue: QueueState | None, info: ActorInfo | None) -> list[str]:
        if queue is None:
            return ["Its queue is not there."] if info is not None and info.state != "dead" else []
        waits = f"{_many(queue.messages, 'message waits', 'messages wait')} in its queue"
        if queue.consumers:
            return [f"{waits}."]
        gone = ", though it should run" if info is not None and info.state == "running" else ""
        limit = self._session.settings.node_timeout
        hint = f": is its node gone? after {limit:g} s of silence it starts elsewhere" if gone else ""
        return [f"{waits}, and no worker takes them{gone}{hint}."]

    async def _doing(self, worker: str, actor_id: str) -> tuple[ActorActivity | None, list[str]]:
        service = stub(self._session, self._session.names.worker(worker), WorkerService)
        try:
            doing = await self._ask(lambda: service.activity(actor_id))
        except (TimeoutError, ActorHubError):
            why = "its process is gone, or a method that does not await blocks its event loop (its log names it)"
            return None, [f"Its worker does not answer: {why}."]
        if doing is None:
            return None, []
        if not doing.running and not doing.waiting:
            return doing, ["It has nothing in hand."]
        running = ", ".join(f"{method} for {seconds:.1f} s" for method, seconds in doing.running) or "nothing yet"
        behind = f"; {_many(doing.waiting, 'message waits', 'messages wait')} behind that" if doing.waiting else ""
        return doing, [f"It handles {running}{behind}."]

    # ---- calls and tasks

    async def _call(self, call: asyncio.Future[object], label: str = "") -> Explanation:
        pending = self._session.sender.pending_calls.find(call)
        label = label or (pending.signature.label if pending is not None else "the call")
        if call.done():
            return self._told([f"{label} {_outcome(call)}."])
        if pending is None:
            return self._told([f"{label} has not been sent: it waits for the results that it takes."])
        is_sent = pending.outgoing is not None and pending.outgoing.envelope is not None
        said = f"{label} has no reply yet." if is_sent else f"{label} has not left this process yet."
        match pending.outbox:
            case TaskOutbox() as outbox:
                return await self._unfinished_task(said, outbox.queue)
            case ActorOutbox() as outbox if actor_id := actor_id_of(outbox.queue):
                return await self._unfinished_call(said, outbox.queue, actor_id)
            case _:
                return self._told([said])

    async def _unfinished_task(self, said: str, queue: str) -> Explanation:
        try:
            state = await self._queue(queue)
        except (TimeoutError, BrokerUnavailable):
            return self._told([said, _BROKER_SILENT])
        waiting, slots = (state.messages, state.consumers) if state is not None else (0, 0)
        tasks = f"{_many(waiting, 'message', 'messages')} of tasks in {queue} that no slot has taken"
        taking = _many(slots, "slot takes", "slots take") if slots else "no slot takes"
        where = f"There {'is' if waiting == 1 else 'are'} {tasks}, and {taking} from it."
        needs = await self._what_a_slot_needs(queue) if not slots else []
        return self._told([said, where, *needs]).model_copy(update={"waiting": waiting, "consumers": slots})

    async def _unfinished_call(self, said: str, queue: str, actor_id: str) -> Explanation:
        names = self._session.names
        namespace = names.namespace_of(queue)
        durable = queue == names.durable(namespace, actor_id)
        address = ActorAddress(queue=queue, actor_id=actor_id, namespace=namespace, class_name="", durable=durable)
        found = await self._actor(address, actor_id)
        return found.model_copy(update={"text": f"{said}\n{found.text}"})

    async def _what_a_slot_needs(self, queue: str) -> list[str]:
        names = self._session.names
        try:
            if names.has_dedicated_slots(queue):
                all_ = await self._ask(lambda: self._control.served(names.namespace_of(queue)))
                return [
                    f"It waits for a slot: {each.waits_for}." for each in all_ if each.name == queue and each.waits_for
                ]
            nodes = await self._ask(self._control.nodes)
        except (TimeoutError, ActorHubError):
            return [_SILENT]
        if any(worker.kind == "task" for node in nodes for worker in node.workers):
            return []
        return ["No node has slots: start one with `actorhub node MODULE --slots 2`."]

    # ---- asking

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
            return await call()

    async def _queue(self, queue: str) -> QueueState | None:
        """State of a queue; None if it does not exist.

        Raises:
            TimeoutError: the broker did not reply in time.
            BrokerUnavailable: the connection was lost.
        """
        async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
            return await (await self._session.live_link()).state(queue)

    def _told(self, said: list[str]) -> Explanation:
        blocked = self._session.blocked
        if blocked is not None:
            said = [f"The broker takes no messages: {blocked}.", *said]
        return Explanation(text="\n".join(said), blocked=blocked)


_SILENT = "Control does not answer: does a node run? start one with `actorhub node MODULE`."
_BROKER_SILENT = (
    f"The broker did not say within {REPLY_TIMEOUT_SECONDS:g} s what waits in the queue: "
    "it is overloaded, or the connection was lost."
)


def _outcome(call: asyncio.Future[object]) -> str:
    if call.cancelled():
        return "was cancelled"
    return "failed" if call.exception() is not None else "has its result"


def _state(who: str, info: ActorInfo | None) -> str:
    if info is None:
        return f"There is no actor {who}, or no longer."
    error = (info.last_error or "").strip().splitlines()
    cause = error[-1] if error else ""
    if info.state == "dead":
        return f"{who} is dead: {cause}."
    waits = f" It waits for a place: {info.waits_for}." if info.waits_for else ""
    where = f" on worker {info.worker} of node {info.node}" if info.worker is not None else ""
    last = f" Its last error: {cause}." if cause else ""
    times = f"; it was restarted {_many(info.restarts, 'time', 'times')}" if info.restarts else ""
    standby = f" Worker {info.standby} stands by." if info.standby is not None else ""
    return f"{who} is {info.state}{where}{times}.{standby}{waits}{last}"


def _ownership(epoch: HistoryEntry | None, commit: HistoryEntry | None) -> str:
    newest = epoch or commit
    if newest is None:
        return "Its journal has no owner: no message has come yet."
    if commit is None or commit.time is None:
        return f"{newest.owner} owns its journal, by epoch {newest.epoch}, and has committed nothing yet."
    moment = datetime.fromtimestamp(commit.time).astimezone().isoformat(" ", "seconds")
    return (
        f"{newest.owner} owns its journal, by epoch {newest.epoch}; the last commit is number {commit.number}, "
        f"of {moment}, {max(0.0, time.time() - commit.time):.0f} s ago."
    )


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
