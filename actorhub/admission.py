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
from actorhub.fates import Fates
from actorhub.remembered import Remembered
from actorhub.task import TaskSpec, tasks
from actorhub.work import Work


class Admission:
    """What one slot knows of tasks."""

    def __init__(self, signer: Signer, node: str) -> None:
        self.fates = Fates()
        self._signer = signer
        self._node = node
        self._specs: Remembered[bytes, TaskSpec] = Remembered()  # of functions that came by value

    def is_cancelled(self, work: Work) -> bool:
        return work.key in self.fates.cancelled

    def admit(self, work: Work) -> TaskSpec:
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
