"""Which tasks a slot runs: those that it knows, that nobody has cancelled, and that have not killed too many workers."""

from __future__ import annotations

import time

from actorhub.codec import Signer
from actorhub.envelope import Envelope
from actorhub.errors import (
    CallCancelled,
    CallTimeout,
    InvalidArguments,
    TaskNotFound,
    WorkerDied,
)
from actorhub.remembered import Remembered
from actorhub.task import TaskSpec, tasks
from actorhub.work import Work


class Admission:
    """What one slot knows of tasks."""

    def __init__(self, signer: Signer, node: str) -> None:
        self._signer = signer
        self._node = node
        self._cancelled: Remembered[str, bool] = Remembered()
        self._deaths: Remembered[str, int] = Remembered()
        self._specs: Remembered[bytes, TaskSpec] = Remembered()  # of functions that came by value

    def cancel(self, key: str) -> None:
        """Nobody waits for the task any more."""
        self._cancelled[key] = True

    def died(self, key: str, times: int) -> None:
        """So many workers have died while they ran the task, as far as the one knows who says so."""
        self._deaths[key] = max(times, self._deaths.get(key, 0))

    def is_cancelled(self, work: Work) -> bool:
        return work.key in self._cancelled

    def admit(self, work: Work) -> TaskSpec:
        """Raises:
        CallCancelled, CallTimeout, WorkerDied, TaskNotFound, UntrustedPayload, NotSerialisable: it is not run.
        """
        envelope = work.envelope
        if envelope.deadline is not None and envelope.deadline <= time.time():
            raise CallTimeout(f"{envelope.method} came after its deadline and was not run")
        if self.is_cancelled(work):
            raise CallCancelled(f"{envelope.method} was cancelled before it began")
        spec = self._spec(envelope)
        deaths = self._deaths.get(work.key, 0)
        if deaths > spec.options.max_redeliveries:
            raise WorkerDied(
                f"{envelope.method} (task {envelope.id}) killed its worker {deaths} times and is not run again"
            )
        return spec

    def known(self, work: Work) -> TaskSpec | None:
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
