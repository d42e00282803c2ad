"""Invocation of one task: whether it is admitted, when it times out, its context, its arguments and its reply."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
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
from actorhub.tasks.retry import Retry
from actorhub.tasks.task import TaskSpec, tasks
from actorhub.wire.codec import PickledParts
from actorhub.wire.envelope import Codec, Envelope, Hop, Kind
from actorhub.wire.signer import Signer


class AdmissionControl:
    """Tasks that one slot may run: those that it knows, that are not cancelled, and that have not killed too many slots."""

    def __init__(self, signer: Signer, node: str) -> None:
        self.statuses = TaskStatusTable()
        """What is known of cancelled tasks, and of those that ended with their slot."""
        self._signer = signer
        self._node = node
        # Of functions that were sent by value, by their code.
        self._specs: BoundedDict[bytes, TaskSpec] = BoundedDict()

    def is_cancelled(self, request: Request) -> bool:
        return request.key in self.statuses.cancelled

    def admit(self, request: Request) -> TaskSpec:
        """The specification of a task that may run.

        Raises:
            CallCancelled, CallTimeout, WorkerDied, TaskNotFound, UntrustedPayload, NotSerialisable: it must not run.
        """
        envelope = request.envelope
        if envelope.deadline is not None and envelope.deadline <= time.time():
            raise CallTimeout(f"{envelope.method} came after its deadline and was not run")
        if self.is_cancelled(request):
            raise CallCancelled(f"{envelope.method} was cancelled before it began")
        if max(1, envelope.attempt) <= self.statuses.late.get(request.key, 0):
            raise CallTimeout(
                f"{envelope.method} was ended with its slot: it was late or cancelled, and blocked the interpreter"
            )
        spec = self._resolve(envelope)
        deaths = self.statuses.deaths.get(request.key, 0)
        if deaths > spec.options.max_redeliveries:
            raise WorkerDied(
                f"{envelope.method} (task {envelope.id}) killed its worker {deaths} times and is not run again"
            )
        return spec

    def spec_if_known(self, request: Request) -> TaskSpec | None:
        """None if this slot cannot tell which function it is."""
        try:
            return self._resolve(request.envelope)
        except Exception:
            return None

    def retry_policy(self, request: Request) -> Retry | None:
        """None if the task has none, or is not known here."""
        spec = self.spec_if_known(request)
        return spec.options.retry if spec is not None else None

    def _resolve(self, envelope: Envelope) -> TaskSpec:
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
            raise InvalidArguments(f"{envelope.method}: its code unpickles to a {type(found).__name__}, not to a task")
        return found


class InFlightRecord:
    """Entry of one attempt in the file that its agent reads when the slot has died: the tasks that are in it are to blame.

    Args:
        recorder: writes the file.
        request: the task.
        times_out_at: monotonic time from which on the agent may kill the slot for this task.
    """

    def __init__(self, recorder: InFlightRecorder, request: Request, times_out_at: float | None) -> None:
        self._recorder = recorder
        self._request = request
        self._times_out_at = times_out_at
        self._entry = -1

    def __enter__(self) -> InFlightRecord:
        self._add()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._recorder.leave(self._entry)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Without the entry: a blocked task does not kill its slot."""
        self._recorder.leave(self._entry)
        try:
            yield
        finally:
            self._add()

    def _add(self) -> None:
        envelope = self._request.envelope
        self._entry = self._recorder.enter(
            "task",
            self._request.key,
            envelope.method,
            attempt=max(1, envelope.attempt),
            late_at=self._times_out_at,
        )


class TaskInvoker:
    """Runs single tasks of one slot. Raises the error of the task, or of its arguments or its result if these are invalid.

    Args:
        clients: the session and the clients that the tasks' code uses.
        recorder: notes which tasks run, for the agent.
        admission: knows the tasks' specifications.
    """

    def __init__(self, clients: Clients, recorder: InFlightRecorder, admission: AdmissionControl) -> None:
        self._clients = clients
        self._session = clients.session
        self._objects = clients.objects
        self._recorder = recorder
        self._admission = admission

    # ---- timeouts

    def times_out_at(self, request: Request, started: float) -> float | None:
        """Monotonic time at which an attempt that started then times out; None if it does not."""
        return _times_out_at(request.envelope, self._admission.spec_if_known(request), started)

    def shortest_timeout(self, requests: Iterable[Request]) -> float | None:
        """In seconds from each one's start; None if none of them has a timeout of its own."""
        specs = map(self._admission.spec_if_known, requests)
        return min((spec.options.timeout for spec in specs if spec and spec.options.timeout), default=None)

    # ---- in a thread

    def run(self, request: Request, yield_turn: YieldTurn) -> Reply:
        """Run a synchronous task. It enters `yield_turn` while it blocks."""
        spec = self._admission.admit(request)
        with InFlightRecord(self._recorder, request, _times_out_at(request.envelope, spec, time.monotonic())) as record:
            self._enter_context(request, partial(_yield_unrecorded, record, yield_turn, threading.get_ident()))
            is_stored = request.envelope.codec is Codec.STORED
            stored = self._objects.with_values_in_thread(self._loads(request)) if is_stored else None
            args, kwargs = self._arguments(request, spec, stored)
            value = spec.function(*args, **kwargs)
            packed = self._pack(request, spec, value)
            payload, codec = packed if isinstance(packed, tuple) else self._objects.store_result(packed)
            return self._reply(request, payload, codec)

    # ---- on the event loop

    async def run_async(self, request: Request, spec: TaskSpec) -> Reply:
        """Run an `async def` task or a generator."""
        self._enter_context(request, None)
        with InFlightRecord(self._recorder, request, _times_out_at(request.envelope, spec, time.monotonic())):
            is_stored = request.envelope.codec is Codec.STORED
            stored = await self._objects.with_values(self._loads(request)) if is_stored else None
            args, kwargs = self._arguments(request, spec, stored)
            if spec.signature.is_generator:
                return await self._stream(request, spec, args, kwargs)
            value = await spec.function(*args, **kwargs)
            packed = self._pack(request, spec, value)
            if not isinstance(packed, tuple):
                packed = await asyncio.to_thread(self._objects.store_result, packed)
            return self._reply(request, *packed)

    async def _stream(self, request: Request, spec: TaskSpec, args: list[Any], kwargs: dict[str, Any]) -> Reply:
        envelope = request.envelope
        if envelope.kind is not Kind.STREAM:
            raise InvalidArguments(f"{envelope.method} streams; submit it as `async for item in hub.submit(...)`")
        count = await StreamSender(self._session, envelope, spec.signature).send_all(spec.function(*args, **kwargs))
        return Reply({"kind": Kind.REPLY, "call": envelope.id, "index": count}, b"null")

    # ---- both

    def _enter_context(self, request: Request, yield_turn: YieldTurn | None) -> None:
        """Set the context variables by which the task's code finds its session, its deadline and its callers."""
        envelope = request.envelope
        current_session.set(self._session)
        namespace = self._session.names.namespace_of(request.queue)
        current_execution.set(ClientContext(None, self._session, namespace, yield_turn, clients=self._clients))
        hop = Hop(actor=f"task {envelope.method}", call=envelope.id)
        handling = HandledCall(hop.actor, envelope.id)
        call_context.set(CallContext(envelope.deadline, (*envelope.chain, hop), False, handling))

    def _loads(self, request: Request) -> Any:
        return self._session.signer.loads(request.payload)

    def _arguments(self, request: Request, spec: TaskSpec, stored: Any) -> tuple[list[Any], dict[str, Any]]:
        """Validated arguments of a task. `stored` are those that came with objects, with the values in place of the objects."""
        envelope = request.envelope
        if envelope.codec is Codec.STORED:
            return spec.signature.accept(stored, alone=envelope.alone)
        return spec.signature.unpack(request.payload, envelope.codec, self._session.signer, alone=envelope.alone)

    def _pack(self, request: Request, spec: TaskSpec, value: Any) -> tuple[bytes, Codec] | PickledParts:
        """The payload of a result and its codec; `PickledParts` if it is so large that it goes to the object store."""
        return spec.signature.pack_result_up_to(value, self._session.signer, self._inline_limit(request))

    def _reply(self, request: Request, payload: bytes, codec: Codec) -> Reply:
        self._session.sender.check_size(payload)
        return Reply({"kind": Kind.REPLY, "call": request.envelope.id, "codec": codec}, payload)

    def _inline_limit(self, request: Request) -> int | None:
        """Bytes up to which a result is sent rather than stored; None if it always is.

        Clients in other languages cannot read the object store. The input of a next task is sent if the broker takes it, since
        it must survive this node.
        """
        envelope, link = request.envelope, self._session.link
        if request.foreign is not None:
            return None
        if link is None or not (envelope.then or envelope.into):
            return self._session.settings.inline_limit
        # All results of a fan-in travel in one message, and may be encoded a second time.
        shares = 1 if envelope.into is None else 2 * envelope.into.count
        return (link.max_message - HEADER_ROOM_BYTES) // shares


@contextmanager
def _yield_unrecorded(
    record: InFlightRecord, yield_turn: YieldTurn, thread: int, future: Future[Any]
) -> Generator[None]:
    """The `yield_turn` that a task gets: its own thread is not in the record while it is blocked."""
    if threading.get_ident() != thread:  # a thread that the task has started has no turn to yield
        yield
        return
    with record.paused(), yield_turn(future):
        yield


def _times_out_at(envelope: Envelope, spec: TaskSpec | None, started: float) -> float | None:
    limits = [started + spec.options.timeout] if spec is not None and spec.options.timeout is not None else []
    if envelope.deadline is not None:
        limits.append(time.monotonic() + envelope.deadline - time.time())
    return min(limits, default=None)


def timed_out(request: Request, ran: float) -> CallTimeout:
    """The error of a task that was ended after so many seconds."""
    return CallTimeout(f"{request.envelope.method} was ended: it had run for {ran:.2f} s")


def cancelled(request: Request) -> CallCancelled:
    """The error of a task that was cancelled after its start."""
    return CallCancelled(f"{request.envelope.method} was cancelled while it ran")
