"""What a successor of control must know: which actors there are, and who of them is dead but not buried.

The journal is a queue that control itself consumes and does not acknowledge: a record lives as long as it matters. `Born`
and `Died` of an actor are acknowledged when it is buried. When control's link ends, however it ends, the broker gives
every record back, in order, to the next consumer: the successor.

A successor publishes a mark of its own and reads until the mark comes: the queue is first in, first out, so then it has read
all that was confirmed to any control before. Only the active one of control's consumers opens the journal, and the queue
has a single active consumer, so a successor reads nothing before its predecessor's link is gone.

Control answers nobody before the record of what it answers is confirmed and has come back to it (`written`). An actor is
therefore in the journal before anybody can send to it, and before any worker hosts it. A control that reads the mark of
another knows that its time is over; what it wrote after that mark does not come back before the mark does, so nobody has
been told of what the successor will not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from actorhub.address import new_id
from actorhub.broker import Consumer, Delivery, Link, Message, Outcome, Queue
from actorhub.control.messages import ActorPlan, Born, Died
from actorhub.errors import ActorHubError

log = logging.getLogger(__name__)

UNLIMITED = 0  # prefetch: every record stays in hand
MARK_AGAIN = (
    5.0  # seconds after which a mark that did not come is sent again: a predecessor may have taken it for an old one
)
_EPOCH_STEP = 1_000_000  # above a predecessor whose clock was ahead of ours


class Mark(BaseModel):
    """The beginning of one control's life. The latest one stays, so that epochs only grow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mark"] = "mark"
    id: str
    epoch: int


_RECORD: TypeAdapter[Born | Died | Mark] = TypeAdapter(Born | Died | Mark)


@dataclass(eq=False)
class _Entry:
    """One actor: its records in hand, and what is still to be heard of those that were written."""

    plan: ActorPlan | None = None
    death: Died | None = None
    deliveries: list[Delivery] = field(default_factory=list)
    awaited: set[str] = field(default_factory=set)
    written: asyncio.Event = field(default_factory=asyncio.Event)

    def expect(self, kind: str) -> None:
        self.awaited |= {f"{kind} confirmed", f"{kind} read"}
        self.written.clear()

    def heard(self, what: str) -> None:
        self.awaited.discard(what)
        if not self.awaited:
            self.written.set()


@dataclass(frozen=True)
class Past:
    """What the journal says. `epoch` is higher than that of every control before; `first`: there was none."""

    epoch: int
    first: bool
    plans: dict[str, ActorPlan]
    deaths: dict[str, Died]


class Journal:
    """One control's side of it, for the life of one link. `on_broken` is called when it can no longer be kept."""

    def __init__(self, link: Link, queue: str, on_broken: Callable[[str], None]) -> None:
        self._link = link
        self._queue = queue
        self._on_broken = on_broken
        self._consumer: Consumer | None = None
        self._entries: dict[str, _Entry] = {}
        self._own: list[Mark] = []
        self._replayed = asyncio.Event()
        self._former: list[Mark] = []
        self._mark_deliveries: list[tuple[Mark, Delivery]] = []
        self._broken = False
        self._closed = False

    async def open(self) -> Past:
        """Read what there is. Waits for as long as a predecessor's link holds it.

        Raises:
            BrokerUnavailable: the link was lost.
        """
        await self._link.declare(Queue(self._queue, single_active=True))
        await self._consume()
        epoch = time.time_ns() // 1_000_000
        while True:
            await self._read_up_to_a_mark_of(epoch)
            highest = max((mark.epoch for mark in self._former), default=0)
            if highest < epoch:
                break
            epoch = highest + _EPOCH_STEP
        self._drop_former_marks()
        return Past(
            epoch=epoch,
            first=not self._former,
            plans={actor: entry.plan for actor, entry in self._entries.items() if entry.plan is not None},
            deaths={actor: entry.death for actor, entry in self._entries.items() if entry.death is not None},
        )

    async def _read_up_to_a_mark_of(self, epoch: int) -> None:
        """Each try has a mark of its own, or a predecessor that took one for an old one would do so again."""
        self._former, self._own, self._replayed = [*self._former, *self._own], [], asyncio.Event()
        while not self._replayed.is_set():
            mark = Mark(id=new_id(), epoch=epoch)
            self._own.append(mark)
            self._publish(mark, lambda: None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MARK_AGAIN):
                    await self._replayed.wait()

    async def close(self) -> None:
        """The records go back to the queue."""
        self._closed = True
        if self._consumer is not None:
            await self._consumer.close()

    # ---- writing

    def write(self, record: Born | Died) -> None:
        """Send it now; `written` tells when it is safe."""
        actor_id = record.plan.actor_id if isinstance(record, Born) else record.actor
        entry = self._entries.setdefault(actor_id, _Entry())
        entry.expect(record.kind)
        self._publish(record, lambda: entry.heard(f"{record.kind} confirmed"))

    async def written(self, actor_id: str) -> None:
        """Returns when all that was written of the actor is safe, and a successor will read it."""
        entry = self._entries.get(actor_id)
        if entry is not None and entry.awaited:
            await entry.written.wait()

    def forget(self, actor_id: str) -> None:
        """Nothing of it is left."""
        entry = self._entries.pop(actor_id, None)
        for delivery in entry.deliveries if entry is not None else ():
            delivery.ack()

    def _publish(self, record: Born | Died | Mark, confirmed: Callable[[], None]) -> None:
        message = Message(record.model_dump_json().encode(), content_type="application/json", type=record.kind)
        self._link.publish(self._queue, message, lambda outcome: self._settled(outcome, confirmed))

    def _settled(self, outcome: Outcome, confirmed: Callable[[], None]) -> None:
        if outcome is Outcome.STORED:
            confirmed()
        elif outcome is not Outcome.LOST:  # with the link this control ends anyway
            self._break(f"{self._queue} does not take a record: {outcome.value}")

    def _break(self, reason: str) -> None:
        """From here on nothing is read, so that nothing more counts as written."""
        if not self._broken:
            self._broken = True
            self._on_broken(reason)

    # ---- reading

    async def _consume(self) -> None:
        self._consumer = await self._link.consume(self._queue, self._on_delivery, self._on_end, prefetch=UNLIMITED)

    def _on_end(self, reason: str) -> None:
        """The broker ends consumers that hold deliveries for long (30 minutes by default): then everything comes again."""
        if self._closed or self._link.lost is not None:
            return
        log.info("control's journal is read again: %s", reason)
        for entry in self._entries.values():
            entry.deliveries.clear()
        self._mark_deliveries.clear()
        task = asyncio.get_running_loop().create_task(self._consume(), name="actorhub-journal")
        task.add_done_callback(self._consumed_again)

    def _consumed_again(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), ActorHubError):
            self._break(f"{self._queue} cannot be read again: {error}")

    def _on_delivery(self, delivery: Delivery) -> None:
        if self._broken:
            return
        try:
            record = _RECORD.validate_json(delivery.message.body)
        except ValidationError:
            log.exception("a message in %s is no record of control's; it is left where it is", self._queue)
            return
        match record:
            case Mark():
                self._read_mark(record, delivery)
            case Born():
                self._read(record.plan.actor_id, delivery, plan=record.plan)
            case Died():
                self._read(record.actor, delivery, death=record)

    def _read_mark(self, mark: Mark, delivery: Delivery) -> None:
        self._mark_deliveries.append((mark, delivery))
        if mark in self._own:
            self._replayed.set()
        elif not self._replayed.is_set():
            self._former.append(mark)
        elif mark not in self._former:
            self._break("another control has begun")
        else:
            self._drop_former_marks()

    def _drop_former_marks(self) -> None:
        """Only once nothing is left to learn from them, and ours is in the queue."""
        for mark, delivery in self._mark_deliveries:
            if mark in self._former:
                delivery.ack()
        self._mark_deliveries = [(mark, held) for mark, held in self._mark_deliveries if mark not in self._former]

    def _read(
        self, actor_id: str, delivery: Delivery, *, plan: ActorPlan | None = None, death: Died | None = None
    ) -> None:
        entry = self._entries.get(actor_id)
        if entry is None and plan is not None and not self._replayed.is_set():
            entry = self._entries[actor_id] = _Entry()
        if entry is None:
            delivery.ack()  # it was forgotten before
            return
        entry.plan = entry.plan or plan
        entry.death = entry.death or death
        entry.deliveries.append(delivery)
        entry.heard("born read" if plan is not None else "died read")
