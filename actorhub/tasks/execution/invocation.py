"""One attempt at a task: what its code finds around it, its arguments, its answer, and when it is late."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from actorhub.actors.execution import YieldTurn, current_execution
from actorhub.control_api.task_status import BoundedDict, TaskStatusTable
from actorhub.core.in_flight import InFlightRecorder
from actorhub.errors import CallCancelled, CallTimeout, InvalidArguments, TaskNotFound, WorkerDied
from actorhub.messaging.context import CallContext, HandledCall, call_context
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.sender import HEADER_ROOM_BYTES
from actorhub.messaging.session import current_session
from actorhub.messaging.stream_sender import StreamSender
from actorhub.tasks.client_context import ClientContext, Clients
from actorhub.tasks.task import TaskSpec, tasks
from actorhub.wire.codec import Signer
from actorhub.wire.envelope import Codec, Envelope, Hop, Kind


class AdmissionControl:
    """What one slot knows of tasks."""

    def __init__(self, signer: Signer, node: str) -> None:
        self.fates = TaskStatusTable()
        self._signer = signer
        self._node = node
        self._specs: BoundedDict[bytes, TaskSpec] = BoundedDict()  # of functions that came by value

    def is_cancelled(self, work: Request) -> bool:
        return work.key in self.fates.cancelled

    def admit(self, work: Request) -> TaskSpec:
        """Raises:
        CallCancelled, CallTimeout, WorkerDied, TaskNotFound, UntrustedPayload, NotSerialisable: it is not run.
        """
        envelope = work.envelope
        if envelope.deadline is not None and envelope.deadline <= time.time():
            raise CallTimeout(f"{envelope.method} came after its deadline and was not run")
        if self.is_cancelled(work):
            raise CallCancelled(f"{envelope.method} was cancelled before it began")
        if max(1, envelope.attempt) <= self.fates.late.get(work.key, 0):
            raise CallTimeout(f"{envelope.method} was ended with its slot: it was late, and held the interpreter")
        spec = self._spec(envelope)
        deaths = self.fates.deaths.get(work.key, 0)
        if deaths > spec.options.max_redeliveries:
            raise WorkerDied(
                f"{envelope.method} (task {envelope.id}) killed its worker {deaths} times and is not run again"
            )
        return spec

    def known(self, work: Request) -> TaskSpec | None:
        """Its spec; None where there is none here."""
        try:
            return self._spec(work.envelope)
        except Exception:
            return None

    def _spec(self, envelope: Envelope) -> TaskSpec:
        if envelope.code is None:
            spec = tasks.get(envelope.method)
            if spec is None:
                module = envelope.method.partition(":")[0]
                raise TaskNotFound(
                    f"no task {envelope.method!r} is registered on node {self._node}; start it with `actorhub node {module}`"
                )
            return spec
        found = self._specs.get(envelope.code)
        if found is None:
            found = self._specs[envelope.code] = self._signer.loads(envelope.code)
        if not isinstance(found, TaskSpec):
            raise InvalidArguments(f"{envelope.method}: its code holds a {type(found).__name__}, and no task")
        return found


class TaskInvoker:
    """Those of one slot. Each raises whatever the task raises, and what makes its arguments or its result invalid."""

    def __init__(self, clients: Clients, blackbox: InFlightRecorder, admission: AdmissionControl) -> None:
        self._clients = clients
        self._session = clients.session
        self._blackbox = blackbox
        self._admission = admission
        self._depot = clients.objects

    def until(self, work: Request, began: float) -> float | None:
        """Monotonic time at which an attempt that began then is late."""
        spec = self._admission.known(work)
        limits = [began + spec.options.timeout] if spec is not None and spec.options.timeout is not None else []
        if work.envelope.deadline is not None:
            limits.append(time.monotonic() + work.envelope.deadline - time.time())
        return min(limits, default=None)

    # ---- in a thread

    def run(self, work: Request, lend: YieldTurn) -> Reply:
        """Of a `def` task. `lend` is entered while it waits; then it is not what kills the slot, if anything does."""
        envelope = work.envelope
        spec = self._admission.admit(work)
        thread = threading.get_ident()
        late_at = self.until(work, time.monotonic())
        slot = self._record(work, late_at)

        @contextmanager
        def lending(wait: Future[Any]) -> Generator[None]:
            nonlocal slot
            if threading.get_ident() != thread:  # one that the task has started
                yield
                return
            self._blackbox.leave(slot)
            try:
                with lend(wait):
                    yield
            finally:
                slot = self._record(work, late_at)

        try:
            self._enter(work, lending)
            args, kwargs = self._arguments(work, spec)
            value = spec.function(*args, **kwargs)
            packed = spec.signature.pack_result_up_to(value, self._session.signer, self._limit(work))
            payload, codec = packed if isinstance(packed, tuple) else self._depot.keep_result(packed)
            self._session.sender.check_size(payload)
        finally:
            self._blackbox.leave(slot)
        return Reply({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    def _arguments(self, work: Request, spec: TaskSpec) -> tuple[list[Any], dict[str, Any]]:
        envelope, signer = work.envelope, self._session.signer
        if envelope.codec is not Codec.STORED:
            return spec.signature.unpack(work.payload, envelope.codec, signer, alone=envelope.alone)
        return spec.signature.accept(self._depot.fill_in_thread(signer.loads(work.payload)), alone=envelope.alone)

    # ---- on the event loop

    async def run_async(self, work: Request, spec: TaskSpec) -> Reply:
        """Of an `async def` task or a generator."""
        self._enter(work, None)
        slot = self._record(work, self.until(work, time.monotonic()))
        try:
            return await self._answer(work, spec)
        finally:
            self._blackbox.leave(slot)

    async def _answer(self, work: Request, spec: TaskSpec) -> Reply:
        envelope, signer = work.envelope, self._session.signer
        if envelope.codec is Codec.STORED:
            given = await self._depot.fill(signer.loads(work.payload))
            args, kwargs = spec.signature.accept(given, alone=envelope.alone)
        else:
            args, kwargs = spec.signature.unpack(work.payload, envelope.codec, signer, alone=envelope.alone)
        if spec.signature.is_generator:
            if envelope.kind is not Kind.STREAM:
                raise InvalidArguments(f"{envelope.method} streams; submit it as `async for item in hub.submit(...)`")
            count = await StreamSender(self._session, envelope, spec.signature).send_all(spec.function(*args, **kwargs))
            return Reply({"kind": Kind.REPLY, "call": envelope.id, "index": count}, b"null")
        value = await spec.function(*args, **kwargs)
        packed = spec.signature.pack_result_up_to(value, signer, self._limit(work))
        if not isinstance(packed, tuple):
            packed = await asyncio.to_thread(self._depot.keep_result, packed)
        payload, codec = packed
        self._session.sender.check_size(payload)
        return Reply({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    # ---- both

    def _record(self, work: Request, late_at: float | None) -> int:
        envelope = work.envelope
        attempt = max(1, envelope.attempt)
        return self._blackbox.enter("task", work.key, envelope.method, attempt=attempt, late_at=late_at)

    def _enter(self, work: Request, lend: YieldTurn | None) -> None:
        """What the task's code finds around it."""
        envelope = work.envelope
        current_session.set(self._session)
        namespace = self._session.names.namespace_of(work.queue)
        current_execution.set(ClientContext(None, self._session, namespace, lend, clients=self._clients))
        hop = Hop(actor=f"task {envelope.method}", call=envelope.id)
        handling = HandledCall(hop.actor, envelope.id)
        call_context.set(CallContext(envelope.deadline, (*envelope.chain, hop), False, handling))

    def _limit(self, work: Request) -> int | None:
        """Bytes up to which a result travels; None where it always does. What another task goes on with stays with the broker,
        if that can take it, for it must survive this node. Other languages cannot read what is in a store."""
        envelope, link = work.envelope, self._session.link
        if work.foreign is not None:
            return None
        if link is None or not (envelope.then or envelope.into):
            return self._session.settings.inline_limit
        together = 1 if envelope.into is None else 2 * envelope.into.count  # in one message, and encoded anew
        return (link.max_message - HEADER_ROOM_BYTES) // together
