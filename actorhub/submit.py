"""How a session sends tasks: at once, later, or when the futures among their arguments are done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from actorhub.actor import spec_of
from actorhub.broker import Link
from actorhub.call import Call, Inflow, Stream
from actorhub.chunks import Means
from actorhub.codec import by_value
from actorhub.control.actor import Control
from actorhub.control.desks import TaskDesk, system_ticket
from actorhub.envelope import Step
from actorhub.errors import ActorHubError, CallCancelled
from actorhub.future import Future, futures_in, with_results
from actorhub.handle import Handle
from actorhub.outbox import Outgoing
from actorhub.replies import Pending
from actorhub.session import Session
from actorhub.task import TaskSpec, is_registered
from actorhub.taskbox import TaskBox

log = logging.getLogger(__name__)

ANNOUNCE_AGAIN = 1.0  # seconds


@dataclass(frozen=True)
class Sending:
    """Where and how a task goes. `delay` is seconds, `then` what goes on with its result."""

    namespace: str
    priority: int | None = None
    delay: float = 0.0
    then: tuple[Step, ...] = ()


class Submitter:
    """One for a session: `Submitter.of(session)`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._boxes: dict[str, TaskBox] = {}
        self._means = Means()
        self._codes: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

    @classmethod
    def of(cls, session: Session) -> Submitter:
        if session.submitter is None:
            session.submitter = cls(session)
            session.attach_later(session.submitter)
        return cast(Submitter, session.submitter)

    async def attach(self, link: Link) -> None:
        for box in self._boxes.values():
            box.attach(link)

    def detach(self) -> None:
        for box in self._boxes.values():
            box.detach()

    @property
    def unconfirmed(self) -> int:
        return sum(box.unconfirmed for box in self._boxes.values())

    # ---- sending

    def submit(self, spec: TaskSpec, args: Sequence[Any], kwargs: dict[str, Any], sending: Sending) -> Any:
        """Send a task, or wait with it for the futures among its arguments. Returns a Future, or the Stream of a generator.

        Raises:
            InvalidArguments, NotSerialisable, PayloadTooLarge, TooManyPending, HubClosed: nothing was sent.
            ValueError: an argument contains itself.
        """
        before = futures_in([*args, *kwargs.values()])
        label = spec.signature.label
        if all(future.done() and not future.cancelled() and future.exception() is None for future in before):
            if before:
                args, kwargs = with_results(list(args)), with_results(kwargs)
            answer = self._send(spec, args, kwargs, sending).answer
            return Stream(answer, self._session.loop) if isinstance(answer, Inflow) else Future(label, answer)
        if spec.signature.is_generator:
            raise TypeError(f"{label} streams, and waits for no futures; await them first")
        call: Call[Any] = Call(loop=self._session.loop)
        waiting = self._session.spawn_task(
            self._send_when_done(before, call, spec, args, kwargs, sending), f"actorhub-wait-{label}"
        )
        call.on_cancel = lambda: _cancel(waiting)
        return Future(label, call)

    async def _send_when_done(
        self,
        before: list[Future[Any]],
        call: Call[Any],
        spec: TaskSpec,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        sending: Sending,
    ) -> None:
        await asyncio.wait([future.settled for future in before], return_when=asyncio.FIRST_EXCEPTION)
        for future in before:
            if future.done() and (error := _failure_of(future)) is not None:
                error.add_note(f"{spec.signature.label} was not run: it takes the result of {future.label}")
                call.fail(error)
                return
        try:
            pending = self._send(spec, with_results(list(args)), with_results(kwargs), sending)
        except Exception as exc:
            call.fail(exc)
            return
        answer = cast("Call[Any]", pending.answer)
        call.on_cancel = lambda: _cancel(answer)
        answer.add_done_callback(lambda _: _pass_on(answer, call))

    def _send(self, spec: TaskSpec, args: Sequence[Any], kwargs: dict[str, Any], sending: Sending) -> Pending:
        session, options = self._session, spec.options
        payload, codec = spec.signature.pack(tuple(args), kwargs, session.signer)
        session.check_sendable(payload)
        code = self.code_of(spec)
        queue = session.names.task(sending.namespace, options.queue)
        box = self._box(queue)
        fields: dict[str, Any] = {"method": spec.name, "codec": codec, "attempt": 1}
        optional = {
            "priority": options.priority if sending.priority is None else sending.priority,
            "code": code,
            "then": sending.then,
        }
        fields |= {name: value for name, value in optional.items() if value}
        pending = session.expect(
            spec.signature, box, fields, on_took=lambda seconds: self._means.record(spec.name, seconds)
        )
        outgoing = Outgoing(fields, payload, lambda outcome: None)
        pending.outgoing = outgoing
        box.put(outgoing)
        return pending

    def code_of(self, spec: TaskSpec) -> bytes | None:
        """A function that nodes cannot know by name travels by value.

        Raises:
            UntrustedPayload: the cluster has no secret.
        """
        if is_registered(spec) and not by_value(spec.function):
            return None
        with suppress(KeyError, TypeError):
            return self._codes[spec.function]
        code = self._session.signer.dumps(spec, spec.name)
        with suppress(TypeError):
            self._codes[spec.function] = code
        return code

    def _box(self, queue: str) -> TaskBox:
        box = self._boxes.get(queue)
        if box is None:
            session = self._session
            box = self._boxes[queue] = TaskBox(queue, session.loop, self._means, self._cancelled)
            if session.link is not None:
                box.attach(session.link)
            session.spawn_task(self._announce(queue), f"actorhub-announce-{queue}")
        return box

    async def _announce(self, queue: str) -> None:
        """Control tells the nodes that there is such a queue. Until it has heard of it, it is told again."""
        session = self._session
        control = cast(Control, Handle(session, system_ticket(session.names.control, Control), spec_of(Control)))
        while True:
            try:
                async with asyncio.timeout(10 * ANNOUNCE_AGAIN):
                    await control.serve(queue)
                return
            except (TimeoutError, ActorHubError) as exc:
                log.debug("no control serves %s yet: %s", queue, exc)
            await asyncio.sleep(ANNOUNCE_AGAIN)

    def _cancelled(self, call_id: str) -> None:
        self._session.broadcast(TaskDesk.cancel_task.__name__, {"call_id": call_id})


def _cancel(waited: asyncio.Future[Any]) -> None:
    waited.cancel()


def _failure_of(future: Future[Any]) -> BaseException | None:
    if future.cancelled():
        return CallCancelled(f"{future.label} was cancelled")
    return future.exception()


def _pass_on(answer: Call[Any], call: Call[Any]) -> None:
    if answer.cancelled():
        call.cancel()
    elif (error := answer.exception()) is not None:
        call.fail(error)
    else:
        call.succeed(answer.result())
