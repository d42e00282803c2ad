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

RETRY_SECONDS = 1.0
"""Seconds before a failed request to control is repeated."""
USE_REPORT_SECONDS = 5.0
"""Seconds after which control is told again that a queue with requirements is used."""
QUEUE_CHECK_SECONDS = 5.0
"""Seconds between checks that the queues with requirements exist."""


class _Route:
    """Route to one task queue.

    Args:
        outbox: outbox of the queue.
        requirements: requirements of its tasks; None without any.
        priority: highest priority that control was told of.
    """

    def __init__(self, outbox: TaskOutbox, requirements: Requirements | None = None, priority: int = 0) -> None:
        self.outbox = outbox
        self.requirements = requirements
        self.priority = priority
        self.granted: asyncio.Task[str | None] | None = None
        """Control's reply about a queue with requirements: None when it has made the queue, or the reason why it cannot."""
        self.reported_at = 0.0
        """Time of the event loop at which control was told last that the queue is used."""

    @property
    def queue(self) -> str:
        return self.outbox.queue

    @property
    def is_open(self) -> bool:
        """True if tasks can be sent: the queue has no requirements, or control has made it."""
        granted = self.granted
        return granted is None or (granted.done() and not granted.cancelled() and granted.result() is None)


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
        self._routes: dict[str, _Route] = {}
        self._requested: set[str] = set()
        """Queues that control is asked for and has not made yet."""
        self._queue_check: asyncio.Task[None] | None = None

    def attach(self, link: Link) -> None:
        for route in self._routes.values():
            if route.is_open:
                route.outbox.attach(link)

    def detach(self) -> None:
        for route in self._routes.values():
            route.outbox.detach()

    @property
    def unconfirmed(self) -> int:
        return sum(route.outbox.unconfirmed for route in self._routes.values())

    # ---- routes

    def outbox_for(self, queue: str, requirements: Requirements | None, priority: int) -> TaskOutbox:
        """Outbox of a queue. It sends at once, or if there are requirements, when control has made the queue.

        Args:
            queue: name of the task queue.
            requirements: requirements of its tasks; None without any.
            priority: priority of the task that is to be sent.
        """
        route = self._routes.get(queue)
        if route is None:
            route = (
                self._open_shared(queue)
                if requirements is None
                else self._open_dedicated(queue, requirements, priority)
            )
        elif requirements is not None:
            self._report_use(route, priority)
        return route.outbox

    def _open_shared(self, queue: str) -> _Route:
        """Route to a queue that every node may serve. Its first sender makes it."""
        route = self._routes[queue] = _Route(self._make_outbox(queue))
        self._attach(route)
        self._session.spawn_task(self._request_until_heard(route), f"actorhub-announce-{queue}")
        return route

    def _open_dedicated(self, queue: str, requirements: Requirements, priority: int) -> _Route:
        """Route to a queue for tasks with the same requirements. Control makes it, and chooses nodes for it."""
        outbox = self._make_outbox(queue, on_unroutable=lambda: self._request_again(queue))
        route = self._routes[queue] = _Route(outbox, requirements, priority)
        self._request(route)
        if self._queue_check is None:
            self._queue_check = self._session.spawn_task(self._check_queues(), "actorhub-task-queues")
        return route

    def _make_outbox(self, queue: str, on_unroutable: Callable[[], None] | None = None) -> TaskOutbox:
        return TaskOutbox(queue, self._session.loop, self._means, self._cancelled, on_unroutable=on_unroutable)

    def _attach(self, route: _Route) -> None:
        if self._session.link is not None:
            route.outbox.attach(self._session.link)

    # ---- waiting for control

    @property
    def all_open(self) -> bool:
        """True if no queue waits for control."""
        return not self._requested

    def when_open(
        self, queues: Iterable[str], then: Callable[[], None], failed: Callable[[ActorHubError], None]
    ) -> None:
        """Wait for control to make queues.

        Args:
            queues: names of the task queues.
            then: called when all of them exist; at once if they do.
            failed: called instead if one of them cannot be served.
        """
        routes = [self._routes[queue] for queue in queues if queue in self._routes]
        waiting = [route for route in routes if not route.is_open]
        if waiting:
            self._session.spawn_task(self._wait(waiting, then, failed), "actorhub-granted")
        else:
            then()

    async def _wait(
        self,
        waiting: list[_Route],
        then: Callable[[], None],
        failed: Callable[[ActorHubError], None],
    ) -> None:
        for route in waiting:
            while not route.is_open and route.granted is not None:
                reason = await asyncio.shield(route.granted)
                if reason is not None:
                    failed(PlacementInfeasible(reason))
                    return
        then()

    # ---- requests to control

    def _request(self, route: _Route) -> None:
        """Ask control for a queue. Its outbox sends once control has made it."""
        name = f"actorhub-grant-{route.queue}"
        granted = route.granted = self._session.spawn_task(self._request_until_heard(route), name)
        self._requested.add(route.queue)
        granted.add_done_callback(lambda done: None if done.cancelled() else self._on_reply(route, done.result()))

    def _on_reply(self, route: _Route, reason: str | None) -> None:
        self._requested.discard(route.queue)
        if reason is None:
            route.reported_at = self._session.loop.time()
            self._attach(route)
        else:
            del self._routes[route.queue]  # a later task asks control again
            self._gone(route.outbox, reason)

    async def _request_until_heard(self, route: _Route) -> str | None:
        """Tell control of a queue until it replies; control tells the nodes. Returns why no node can serve it, or None."""
        control = control_client(self._session)
        while True:
            try:
                async with asyncio.timeout(10 * RETRY_SECONDS):
                    return (await control.serve(route.queue, route.requirements, route.priority)).error
            except (TimeoutError, ActorHubError) as exc:
                log.debug("no control serves %s yet: %s", route.queue, exc)
            await asyncio.sleep(RETRY_SECONDS)

    def _request_again(self, queue: str) -> None:
        """Ask control again for a queue that is missing: it was removed for good, or only lost."""
        route = self._routes.get(queue)
        if route is not None and route.is_open:
            route.outbox.detach()
            self._request(route)

    def _report_use(self, route: _Route, priority: int) -> None:
        """Tell control that a queue is used: once in `USE_REPORT_SECONDS`, and when the priority of its tasks rises."""
        now = self._session.loop.time()
        if route.is_open and (now - route.reported_at > USE_REPORT_SECONDS or priority > route.priority):
            route.reported_at, route.priority = now, max(priority, route.priority)
            self._session.spawn_task(self._request_until_heard(route), f"actorhub-used-{route.queue}")

    async def _check_queues(self) -> None:
        """Check at intervals that the queues with requirements exist, and ask control again for a missing one.

        The broker confirms a message to a queue that is deleted at the same moment, though the message is lost with it.
        """
        while True:
            await asyncio.sleep(QUEUE_CHECK_SECONDS)
            link = self._session.link
            for queue, route in list(self._routes.items()):
                if route.requirements is None or not route.is_open:
                    continue
                if link is None or link is not self._session.link:
                    break
                with suppress(BrokerUnavailable):
                    if await link.state(queue) is None:
                        self._request_again(queue)
