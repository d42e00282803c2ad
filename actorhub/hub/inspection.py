"""Inspection of a cluster: actors, task queues, nodes, journals of durable actors, explanations and dead letters."""

from __future__ import annotations

from abc import ABC, abstractmethod

from actorhub.actors.handle import address_of
from actorhub.control_api.client import control_client, find
from actorhub.control_api.info import ActorInfo, DedicatedQueueInfo, Demand, NodeInfo, QueueInfo
from actorhub.control_api.services import PAGE_ENTRIES
from actorhub.core.addressing import ActorAddress
from actorhub.durable.history import ActorState, History, HistoryEntry
from actorhub.hub.explain import Explainer, Explanation
from actorhub.hub.options import Options
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.session import Session


class InspectionApi(ABC):
    """The part of `Hub` that inspects the cluster, and changes nothing but dead letters."""

    _options: Options

    @abstractmethod
    def _open_session(self) -> Session: ...

    async def actors(self, *, all_namespaces: bool = False) -> list[ActorInfo]:
        """The actors of the namespace, living and recently dead."""
        namespace = None if all_namespaces else self._options.namespace
        control, found = control_client(self._open_session()), list[ActorInfo]()
        while True:
            page = await control.actors(namespace, found[-1].id if found else None)
            found += page
            if len(page) < PAGE_ENTRIES:
                return found

    async def tasks(self, *, all_namespaces: bool = False) -> list[QueueInfo]:
        """The task queues of the namespace that clients have used, with the number of tasks that wait in them."""
        session = self._open_session()
        namespace, control = None if all_namespaces else self._options.namespace, control_client(session)
        served = {queue.name: queue for queue in await control.served(namespace)}
        queues = [*await control.task_queues(namespace), *served]
        return [await self._task_queue(queue, served.get(queue)) for queue in queues]

    async def _task_queue(self, queue: str, served: DedicatedQueueInfo | None) -> QueueInfo:
        session = self._open_session()
        state = await (await session.live_link()).state(queue)
        waiting, slots = (state.messages, state.consumers) if state is not None else (0, 0)
        return QueueInfo(
            queue=session.names.task_queue_label(queue),
            namespace=session.names.namespace_of(queue),
            waiting=waiting,
            slots=slots,
            needs=served.needs if served is not None else None,
            waits_for=_what_it_needs(served) if waiting and not slots else "",
        )

    async def demand(self) -> list[Demand]:
        """Actors, placement groups and slots that wait for resources in the whole cluster, by their requirements.

        More nodes with these resources would let them begin.
        """
        return await control_client(self._open_session()).demand()

    async def nodes(self) -> list[NodeInfo]:
        """The nodes of the cluster with their workers."""
        return await control_client(self._open_session()).nodes()

    async def history(self, actor: object, *, limit: int = 100) -> list[HistoryEntry]:
        """The last `limit` records of a durable actor's journal, in order. Reading removes none.

        All instances of a keyed class that share a mailbox share a journal.

        Args:
            actor: its handle, name or id.

        Raises:
            ActorNotFound: no such durable actor exists.
            ActorHubError: it is not durable.
        """
        return await (await self._history(actor)).read(limit)

    async def state_at(self, actor: object, number: int | None = None, *, key: str | None = None) -> ActorState:
        """A durable actor's state after a commit.

        Args:
            actor: its handle, name or id.
            number: number of the commit; None for the last one.
            key: key of a keyed class's instance, if `actor` is not its handle.

        Raises:
            ActorNotFound: no such durable actor exists.
            ActorHubError: it is not durable, or its journal has no such commit.
            UntrustedPayload, NotSerialisable: the state is a pickle that cannot be read here.
        """
        return await (await self._history(actor, key)).state(number)

    async def explain(self, what: object) -> Explanation:
        """Explain why an actor (its handle, name or id), a call or a task (its awaitable) waits; print the `text`.

        It works even if no node runs, or the actor does not exist.
        """
        session = self._open_session()
        return await Explainer(session, self._options.namespace).explain(what)

    async def _history(self, actor: object, key: str | None = None) -> History:
        session, namespace = self._open_session(), self._options.namespace
        if not isinstance(actor, str):
            return History(session, address_of(actor).of(key or ""))
        link, names = await session.live_link(), session.names
        # It is an id: no node needs to run.
        if await link.state(names.journal(namespace, actor)) is not None:
            queue = names.durable(namespace, actor)
            address = ActorAddress(
                queue=queue, actor_id=actor, namespace=namespace, class_name="", durable=True, key=key
            )
            return History(session, address)
        plan = await find(self._open_session(), namespace, actor)
        return History(session, plan.address(names))

    # ---- dead letters

    async def dead(self, limit: int = 100, *, after: int | None = None) -> list[DeadLetter]:
        """The oldest `limit` dead letters of the namespace, or the oldest behind the dead letter with the id `after`.

        Reading removes none, and leaves out dead letters that arrive after it began.
        """
        return await self._dead_letters().read(limit, after)

    async def dead_letter(self, id: int) -> DeadLetter:
        """The dead letter with this id.

        Raises:
            LetterNotFound: the namespace has no dead letter with this id.
        """
        return await self._dead_letters().get(id)

    async def replay(self, letter: DeadLetter | int) -> DeadLetter:
        """Send the message of a dead letter, given itself or by id, again: a new one, without a deadline or a caller.

        Returns the dead letter, which stays, with the time of the replay in `replayed`.

        Raises:
            LetterNotFound: the namespace has no dead letter with this id.
            ActorNotFound: the actor is dead, and its mailbox deleted.
            MailboxFull: the actor's mailbox is at its limit.
            BrokerUnavailable: the connection was lost before the broker confirmed: it may or may not be sent.
        """
        return await self._dead_letters().replay(letter)

    async def purge_dead(self) -> int:
        """Delete all dead letters of the namespace; returns their number at the start. Ids start again from the first.

        Raises:
            BrokerUnavailable: the connection was lost; check which dead letters are left.
        """
        return await self._dead_letters().purge()

    def _dead_letters(self) -> DeadLetterQueue:
        return DeadLetterQueue(self._open_session(), self._options.namespace)


def _what_it_needs(served: DedicatedQueueInfo | None) -> str:
    return served.waits_for if served is not None else "a slot: start a node with `actorhub node MODULE --slots 2`"
