"""Router of one session's tasks: one outbox for each task queue.

Control is told of each queue. If the tasks of a queue have requirements, control must make the queue before they are sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from actorhub.broker import Link
from actorhub.control_api.client import control_client
from actorhub.control_api.requirements import Requirements
from actorhub.errors import ActorHubError, BrokerUnavailable, PlacementInfeasible
from actorhub.messaging.session import Session
from actorhub.tasks.chunking import MeanDurations
from actorhub.tasks.outbox import TaskOutbox

log = logging.getLogger(__name__)

AGAIN = 1.0
"""Seconds before a failed request to control is repeated."""
USED = 5.0
"""Seconds after which control is told again that a queue with requirements is used."""
SILENCE = 5.0
"""Seconds between checks that the queues with requirements exist."""


class _Route:
    """Route to a queue whose tasks have requirements.

    Args:
        box: outbox of the queue.
        needs: requirements of its tasks.
        priority: highest priority that control was told of.
        granted: control's reply: None when it has made the queue, or the reason why it cannot.
    """

    def __init__(self, box: TaskOutbox, needs: Requirements, priority: int, granted: asyncio.Task[str | None]) -> None:
        self.box = box
        self.needs = needs
        self.priority = priority
        self.granted = granted
        self.told = 0.0

    @property
    def is_open(self) -> bool:
        return self.granted.done() and not self.granted.cancelled() and self.granted.result() is None


class TaskRouter:
    """Outboxes of a session, by task queue.

    Args:
        session: reaches the broker and control.
        means: mean durations of tasks, for chunking.
        cancelled: called with the id of a task that was sent and is cancelled.
        gone: called with the outbox of a queue that no node can serve (any more), and the reason; it sends nothing more.
    """

    def __init__(
        self,
        session: Session,
        means: MeanDurations,
        cancelled: Callable[[str], None],
        gone: Callable[[TaskOutbox, str], None],
    ) -> None:
        self._session = session
        self._means = means
        self._cancelled = cancelled
        self._gone = gone
        self._boxes: dict[str, TaskOutbox] = {}
        self._ways: dict[str, _Route] = {}  # to queues whose tasks have requirements
        self._closed: set[str] = set()  # queues that wait for control
        self._looking: asyncio.Task[None] | None = None

    def attach(self, link: Link) -> None:
        for queue, box in self._boxes.items():
            if queue not in self._ways or self._ways[queue].is_open:
                box.attach(link)

    def detach(self) -> None:
        for box in self._boxes.values():
            box.detach()

    @property
    def unconfirmed(self) -> int:
        return sum(box.unconfirmed for box in self._boxes.values())

    # ---- routes

    def to(self, queue: str, needs: Requirements | None, priority: int) -> TaskOutbox:
        """Outbox of a queue. It sends at once, or if there are requirements, when control has made the queue.

        Args:
            queue: name of the task queue.
            needs: requirements of its tasks; None without any.
            priority: priority of the task that is to be sent.
        """
        box = self._boxes.get(queue)
        if box is None:
            session = self._session
            made = needs is None
            unroutable = None if made else lambda: self._ask_again(queue)
            box = self._boxes[queue] = TaskOutbox(
                queue, session.loop, self._means, self._cancelled, on_unroutable=unroutable
            )
            if needs is None:
                self._attach(box)
                session.spawn_task(self._announce(queue), f"actorhub-announce-{queue}")
            else:
                self._ways[queue] = _Route(box, needs, priority, self._ask(queue, needs, priority))
                if self._looking is None:
                    self._looking = session.spawn_task(self._look_for_vanished(), "actorhub-task-queues")
        elif needs is not None:
            self._say_that_it_is_used(queue, priority)
        return box

    @property
    def all_open(self) -> bool:
        """True if no queue waits for control."""
        return not self._closed

    def when_open(
        self, queues: Iterable[str], then: Callable[[], None], failed: Callable[[ActorHubError], None]
    ) -> None:
        """Wait for control to make queues.

        Args:
            queues: names of the task queues.
            then: called when all of them exist; at once if they do.
            failed: called instead if one of them cannot be served.
        """
        ways = [self._ways[queue] for queue in queues if queue in self._ways]
        if all(way.is_open for way in ways):
            then()
        else:
            self._session.spawn_task(self._wait(ways, then, failed), "actorhub-granted")

    async def _wait(
        self, ways: list[_Route], then: Callable[[], None], failed: Callable[[ActorHubError], None]
    ) -> None:
        for way in ways:
            reason = await asyncio.shield(way.granted)
            if reason is not None:
                failed(PlacementInfeasible(reason))
                return
        then()

    def _attach(self, box: TaskOutbox) -> None:
        if self._session.link is not None:
            box.attach(self._session.link)

    # ---- requests to control

    async def _announce(self, queue: str) -> None:
        """Tell control of a queue, until it confirms; control tells the nodes."""
        await self._tell(queue, None, 0)

    async def _tell(self, queue: str, needs: Requirements | None, priority: int) -> str | None:
        control = control_client(self._session)
        while True:
            try:
                async with asyncio.timeout(10 * AGAIN):
                    return (await control.serve(queue, needs, priority)).error
            except (TimeoutError, ActorHubError) as exc:
                log.debug("no control serves %s yet: %s", queue, exc)
            await asyncio.sleep(AGAIN)

    def _ask(self, queue: str, needs: Requirements, priority: int) -> asyncio.Task[str | None]:
        task: asyncio.Task[str | None] = self._session.spawn_task(
            self._tell(queue, needs, priority), f"actorhub-grant-{queue}"
        )
        self._closed.add(queue)
        task.add_done_callback(lambda done: None if done.cancelled() else self._answered(queue, done))
        return task

    def _answered(self, queue: str, granted: asyncio.Task[str | None]) -> None:
        self._closed.discard(queue)
        way = self._ways[queue]
        reason = granted.result()
        if reason is None:
            way.told = self._session.loop.time()
            self._attach(way.box)
            return
        del self._ways[queue], self._boxes[queue]  # a later task asks control again
        self._gone(way.box, reason)

    def _ask_again(self, queue: str) -> None:
        """Ask control again for a queue that is missing: it was removed for good, or only lost."""
        way = self._ways.get(queue)
        if way is not None and way.is_open:
            way.box.detach()
            way.granted = self._ask(queue, way.needs, way.priority)

    def _say_that_it_is_used(self, queue: str, priority: int) -> None:
        """Tell control that a queue is used, every `USED` seconds at most, or when the priority of its tasks has risen."""
        way, now = self._ways[queue], self._session.loop.time()
        if way.is_open and (now - way.told > USED or priority > way.priority):
            way.told, way.priority = now, max(priority, way.priority)
            self._session.spawn_task(self._tell(queue, way.needs, way.priority), f"actorhub-used-{queue}")

    async def _look_for_vanished(self) -> None:
        """Check at intervals that the queues exist, and ask control again for a missing one.

        The broker confirms a message to a queue that is deleted at the same moment, though the message is lost with it.
        """
        while True:
            await asyncio.sleep(SILENCE)
            link = self._session.link
            for queue, way in list(self._ways.items()):
                if link is None or link is not self._session.link or not way.is_open:
                    continue
                with suppress(BrokerUnavailable):
                    if await link.state(queue) is None:
                        self._ask_again(queue)
