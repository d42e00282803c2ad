"""The ways of one session to task queues. Control hears of each; where its tasks ask for a place, it is asked before."""

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

AGAIN = 1.0  # seconds before control is told again
USED = 5.0  # seconds after which control is told again that such a queue is used
SILENCE = 5.0  # seconds between looks whether queues are still there


class _Route:
    """`granted`: control has made the queue, or says why it cannot be."""

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
    """`cancelled` is called with the id of a task that has left and that nobody waits for any more; `gone` with the way to a
    queue that nobody can serve (any more), and why. Nothing more leaves by it."""

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
        self._ways: dict[str, _Route] = {}  # to queues whose tasks ask for a place
        self._closed: set[str] = set()  # those that wait for control
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

    # ---- ways

    def to(self, queue: str, needs: Requirements | None, priority: int) -> TaskOutbox:
        """What is put there leaves when control has heard of the queue, where its tasks ask for a place; else at once."""
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
        """Whether no way waits for control."""
        return not self._closed

    def when_open(
        self, queues: Iterable[str], then: Callable[[], None], failed: Callable[[ActorHubError], None]
    ) -> None:
        """Call `then` when all of these are there, at once where they are; or `failed`, where one cannot be served."""
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

    # ---- what control is told

    async def _announce(self, queue: str) -> None:
        """Control tells the nodes that there is such a queue. Until it has heard of it, it is told again."""
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
        del self._ways[queue], self._boxes[queue]  # who asks later is answered as it is then
        self._gone(way.box, reason)

    def _ask_again(self, queue: str) -> None:
        """It is not there any more: has it been removed, or only lost?"""
        way = self._ways.get(queue)
        if way is not None and way.is_open:
            way.box.detach()
            way.granted = self._ask(queue, way.needs, way.priority)

    def _say_that_it_is_used(self, queue: str, priority: int) -> None:
        """Now and then, so that control looks at what waits there; and when its tasks have a higher priority than before."""
        way, now = self._ways[queue], self._session.loop.time()
        if way.is_open and (now - way.told > USED or priority > way.priority):
            way.told, way.priority = now, max(priority, way.priority)
            self._session.spawn_task(self._tell(queue, way.needs, way.priority), f"actorhub-used-{queue}")

    async def _look_for_vanished(self) -> None:
        """A queue that is deleted in the moment of a publish takes the message along, and the broker confirms it all the
        same: control says whether it has ended."""
        while True:
            await asyncio.sleep(SILENCE)
            link = self._session.link
            for queue, way in list(self._ways.items()):
                if link is None or link is not self._session.link or not way.is_open:
                    continue
                with suppress(BrokerUnavailable):
                    if await link.state(queue) is None:
                        self._ask_again(queue)
