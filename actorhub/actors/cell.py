"""Cell of one live actor: takes a request, decodes it, calls the method, and hands over the reply."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from actorhub.actors.execution import ExecutionContext, current_execution
from actorhub.actors.handle import address_of
from actorhub.actors.spec import ActorSpec
from actorhub.core.in_flight import InFlightRecorder
from actorhub.errors import (
    ActorInitFailed,
    CallCancelled,
    CallTimeout,
    DeadlockDetected,
    InvalidArguments,
    InvalidResult,
    MethodNotFound,
    NotSerialisable,
    UntrustedPayload,
)
from actorhub.messaging.context import CallContext, HandledCall, call_context
from actorhub.messaging.dead_letter import Reason
from actorhub.messaging.request import Reply, Request
from actorhub.messaging.session import current_session
from actorhub.messaging.stream_sender import StreamSender
from actorhub.wire.envelope import Envelope, Hop, Kind
from actorhub.wire.method_signature import Signature

log = logging.getLogger(__name__)

MAX_TURN_SECONDS = 0.01
"""Seconds that calls which never wait may hold the event loop."""


@dataclass(eq=False)
class _Running:
    task: asyncio.Task[Any]
    handling: HandledCall
    method: str
    began: float
    cancelled: bool = False
    inside: bool = False  # the method itself runs: any exception is its own, whatever the type


class ActorCell:
    """Cell of one instance of an actor class, which runs its calls.

    Requests begin in the order in which they are offered; at most `concurrency` run at once. Every offered request is
    finished exactly once, unless the cell is stopped first.

    Args:
        execution: the execution context of the methods.
        spec: the actor class.
        create: makes the instance; runs in a thread.
        recorder: records the calls in flight, for the case that the worker dies.
        on_failed: called with the exception after which the instance must be restarted (`on_error="restart"`).
    """

    def __init__(
        self,
        execution: ExecutionContext,
        spec: ActorSpec,
        create: Callable[[], Any],
        *,
        recorder: InFlightRecorder | None = None,
        on_failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.spec = spec
        self.actor_id = address_of(execution.handle).actor_id
        self.instance: Any = None
        self._session = execution.session
        self._create = create
        self._execution = execution
        self._recorder = recorder
        self._on_failed = on_failed
        self._waiting: deque[Request] = deque()
        self._running: dict[str, _Running] = {}
        self._runners: set[asyncio.Task[None]] = set()
        self.may_start: Callable[[], bool] = lambda: True
        """Checked before each call. When it has returned False, `resume` must be called later."""
        self._extra = 0  # reentrant calls, beside the `concurrency` ordinary runners
        self._ready = False
        self._stopped = False

    # ---- life

    async def start(self) -> None:
        """Make the instance and call its `started`.

        Raises:
            ActorInitFailed: the constructor or `started` raised; the cause is kept.
        """
        current_execution.set(self._execution)
        current_session.set(self._session)
        try:
            self.instance = await _in_thread(self._create)
            if hasattr(self.instance, "started"):
                await self.instance.started()
        except Exception as exc:
            raise ActorInitFailed(f"{self.spec.cls.__qualname__} could not start: {type(exc).__name__}: {exc}") from exc
        self._ready = True
        self._start_waiting()

    async def stop(self, timeout: float) -> None:
        """Begin no more calls, wait `timeout` seconds for those that run, cancel the rest, and call `stopping`."""
        self._stopped = True
        self._waiting.clear()
        if self._runners:
            _, late = await asyncio.wait(self._runners, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._ready and hasattr(self.instance, "stopping"):
            current_execution.set(self._execution)
            current_session.set(self._session)
            try:
                async with asyncio.timeout(timeout or 1.0):
                    await self.instance.stopping()
            except Exception:
                log.exception("%s.stopping raised", self.spec.cls.__qualname__)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def handling(self) -> bool:
        """True while a call runs."""
        return bool(self._running)

    @property
    def running(self) -> list[tuple[str, float]]:
        """Names of the methods that run, each with the seconds since it began."""
        now = time.monotonic()
        return [(running.method, now - running.began) for running in self._running.values()]

    @property
    def waiting(self) -> int:
        """Number of calls that have not begun."""
        return len(self._waiting)

    # ---- taking

    def accept(self, request: Request) -> None:
        """Take a request, in order. A call that returns to this actor in its own chain runs at once, or fails."""
        if self._stopped:
            return
        if request.envelope.chain and self._running and self._calls_back(request.envelope):
            if self.spec.options.reentrant:
                self._extra += 1
                self._launch(self._run_extra(request))
                return
            if self._is_deadlocked(request.envelope):
                self._fail_deadlocked(request)
                return
        self._waiting.append(request)
        self._start_waiting()

    def fail_all(self, error: BaseException) -> None:
        """Fail all waiting requests with `error`, since the instance could not be created."""
        while self._waiting:
            request = self._waiting.popleft()
            request.finish(self._failure(request.envelope, error))

    def cancel(self, call_id: str) -> None:
        """Cancel a call that runs or waits. A `def` method runs on to its end; its result is not sent."""
        running = self._running.get(call_id)
        if running is not None:
            running.cancelled = True
            running.task.cancel()
            return
        for request in self._waiting:
            if request.envelope.id == call_id:
                self._waiting.remove(request)
                request.finish(self._failure(request.envelope, CallCancelled("cancelled before it began")))
                return

    def resume(self) -> None:
        """Begin waiting calls, now that `may_start` returns True again."""
        for _ in range(min(len(self._waiting), self.spec.options.concurrency)):
            self._start_waiting()

    def _start_waiting(self) -> None:
        if self._ready and self._waiting and len(self._runners) - self._extra < self.spec.options.concurrency:
            self._launch(self._run())

    def _launch(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._runners.add(self._session.loop.create_task(self._settled(coroutine), name=f"actorhub-{self.actor_id}"))

    async def _settled(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a runner in its context.

        It leaves `_runners` in the same step in which it finds that no request waits.
        """
        current_execution.set(self._execution)
        current_session.set(self._session)
        task = asyncio.current_task()
        try:
            await coroutine
        finally:
            self._runners.discard(cast("asyncio.Task[None]", task))

    async def _run(self) -> None:
        began = time.monotonic()
        while self._waiting and not self._stopped and self.may_start():
            await self._handle(self._waiting.popleft())
            if time.monotonic() - began > MAX_TURN_SECONDS:
                await asyncio.sleep(0)
                began = time.monotonic()

    async def _run_extra(self, request: Request) -> None:
        try:
            await self._handle(request)
        finally:
            self._extra -= 1

    # ---- handling

    async def _handle(self, request: Request) -> None:
        """Handle one request: decode, call, reply. `request.finish` sends the reply and acknowledges."""
        envelope = request.envelope
        task = asyncio.current_task()
        assert task is not None
        handling = HandledCall(self.actor_id, envelope.id, request.effects)
        running = self._running[envelope.id] = _Running(task, handling, envelope.method, time.monotonic())
        hops = (*envelope.chain, Hop(actor=self.actor_id, call=envelope.id))
        token = call_context.set(CallContext(envelope.deadline, hops, False, handling))
        slot = self._recorder.enter(self.actor_id, envelope.id, envelope.method) if self._recorder else -1
        failed: BaseException | None = None
        try:
            reply = await self._make_reply(request, running)
        except asyncio.CancelledError:
            if not running.cancelled:
                raise
            task.uncancel()
            reply = self._failure(envelope, CallCancelled(f"{self._label(envelope)} was cancelled"))
        except (Exception, SystemExit, KeyboardInterrupt) as exc:
            if self._session.is_closed:  # no reply: the message is requeued and handled elsewhere
                raise asyncio.CancelledError from exc
            failed = exc
            reply = self._failure(envelope, exc, _reason(exc, running))
        finally:
            handling.effects = None
            call_context.reset(token)
            self._running.pop(envelope.id, None)
            if self._recorder is not None:
                self._recorder.leave(slot)
        request.finish(reply)
        if failed is not None and self.spec.options.on_error == "restart" and self._on_failed is not None:
            self._stopped = True
            self._on_failed(failed)

    async def _make_reply(self, request: Request, running: _Running) -> Reply:
        envelope = request.envelope
        if envelope.deadline is not None and envelope.deadline <= time.time():
            raise CallTimeout(f"{self._label(envelope)} came after its deadline and was not run")
        method = self.spec.methods.get(envelope.method)
        if method is None:
            raise MethodNotFound(
                f"{self.spec.cls.__qualname__} has no public method {envelope.method!r}; "
                f"it has: {', '.join(sorted(self.spec.methods))}"
            )
        args, kwargs = method.unpack(request.payload, envelope.codec, self._session.signer)
        function = getattr(self.instance, envelope.method)
        running.inside = True
        if method.is_generator:
            return await self._stream(request, method, function(*args, **kwargs))
        if method.kind == "async":
            value = await function(*args, **kwargs)
        else:
            value = await self._call_in_thread(running, functools.partial(function, *args, **kwargs))
        running.inside = False
        payload, codec = method.pack_result(value, self._session.signer)
        self._session.sender.check_size(payload)
        return Reply({"kind": Kind.REPLY, "call": envelope.id, "codec": codec}, payload)

    async def _call_in_thread(self, running: _Running, function: Callable[[], Any]) -> Any:
        """Call in a thread, which cannot be cancelled: the call keeps its turn until the thread ends or the cell is
        stopped.
        """
        future = asyncio.ensure_future(_in_thread(function))
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                if self._stopped or not running.cancelled:
                    raise
                running.task.uncancel()
            except Exception:
                break
        if running.cancelled:
            raise CallCancelled("cancelled while it ran; a `def` method runs on to its end")
        return future.result()

    async def _stream(self, request: Request, method: Signature, generator: Any) -> Reply:
        if request.envelope.kind is not Kind.STREAM:
            raise MethodNotFound(f"{self._label(request.envelope)} streams; call it as `async for item in ...`")
        outflow = StreamSender(self._session, request.envelope, method)
        count = await outflow.send_all(generator)
        return Reply({"kind": Kind.REPLY, "call": request.envelope.id, "index": count}, b"null")

    def _failure(self, envelope: Envelope, error: BaseException, reason: Reason = "exception") -> Reply:
        return Reply.failed(envelope.id, error, self._session.signer, reason)

    def _label(self, envelope: Envelope) -> str:
        return f"{self.spec.cls.__qualname__}.{envelope.method}"

    # ---- calls that return in their own chain

    def _calls_back(self, envelope: Envelope) -> bool:
        return any(hop.actor == self.actor_id and hop.call in self._running for hop in envelope.chain)

    def _is_deadlocked(self, envelope: Envelope) -> bool:
        """True if every turn of this actor is held by a call that waits, through the envelope's chain, for its reply.

        If one of them has sent its call and does not wait for it yet, this is checked again as soon as it does.
        """
        if len(self._running) < self.spec.options.concurrency:
            return False
        following = {hop.call: nxt for hop, nxt in zip(envelope.chain, _calls_after(envelope), strict=True)}
        for call_id, running in self._running.items():
            asked = running.handling.asked.get(following.get(call_id, ""))
            if asked is None:
                return False
            if not asked.awaited:
                asked.on_awaited = self._fail_all_deadlocked
                return False
        return True

    def _fail_all_deadlocked(self) -> None:
        for request in list(self._waiting):
            if request.envelope.chain and self._is_deadlocked(request.envelope):
                self._waiting.remove(request)
                self._fail_deadlocked(request)

    def _fail_deadlocked(self, request: Request) -> None:
        actors = [hop.actor for hop in request.envelope.chain]
        cycle = " -> ".join([*actors[actors.index(self.actor_id) :], self.actor_id])
        request.finish(
            self._failure(
                request.envelope,
                DeadlockDetected(
                    f"{self._label(request.envelope)} would wait for itself: {cycle}; use tell, or @actor(reentrant=True)"
                ),
            )
        )


def _reason(error: BaseException, running: _Running) -> Reason:
    """Reason for which a tell that failed with `error` is kept as a dead letter."""
    if running.inside:
        return "exception"
    if isinstance(error, MethodNotFound | InvalidArguments | InvalidResult | NotSerialisable | UntrustedPayload):
        return "invalid"
    return "expired" if isinstance(error, CallTimeout) else "exception"


def _calls_after(envelope: Envelope) -> list[str]:
    """Ids of the calls that the hops of the chain made, one for each."""
    return [*(hop.call for hop in envelope.chain[1:]), envelope.id]


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Call in a thread. StopIteration, which futures do not accept, becomes RuntimeError, as in a coroutine."""
    context = contextvars.copy_context()

    def run() -> Any:
        try:
            return context.run(function)
        except StopIteration as exc:
            raise RuntimeError("the method raised StopIteration") from exc

    return await asyncio.get_running_loop().run_in_executor(None, run)
