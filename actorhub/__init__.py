"""Typed, fault-tolerant actors on RabbitMQ."""

from actorhub.actors.actor import actor
from actorhub.actors.execution import ref, step
from actorhub.actors.handle import ask, tell
from actorhub.actors.timers import Timer
from actorhub.errors import (
    ActorDied,
    ActorHubError,
    ActorInitFailed,
    ActorNotFound,
    BrokerUnavailable,
    CallCancelled,
    CallTimeout,
    DeadlockDetected,
    HubClosed,
    InvalidArguments,
    InvalidEnvelope,
    InvalidResult,
    LetterNotFound,
    MailboxFull,
    MethodNotFound,
    NameTaken,
    NotSerialisable,
    ObjectLost,
    PayloadTooLarge,
    PlacementInfeasible,
    RemoteError,
    StoreFull,
    TaskNotFound,
    TooManyPending,
    UntrustedPayload,
    WorkerDied,
)
from actorhub.hub.hub import Hub
from actorhub.hub.placement import PlacementGroup
from actorhub.messaging.calls import Call, Stream
from actorhub.messaging.context import backpressure, deadline
from actorhub.objects.reference import ObjectRef
from actorhub.settings import Settings
from actorhub.tasks.future import Future
from actorhub.tasks.retry import Retry
from actorhub.tasks.task import task

__all__ = [
    "ActorDied",
    "ActorHubError",
    "ActorInitFailed",
    "ActorNotFound",
    "BrokerUnavailable",
    "Call",
    "CallCancelled",
    "CallTimeout",
    "DeadlockDetected",
    "Future",
    "Hub",
    "HubClosed",
    "InvalidArguments",
    "InvalidEnvelope",
    "InvalidResult",
    "LetterNotFound",
    "MailboxFull",
    "MethodNotFound",
    "NameTaken",
    "NotSerialisable",
    "ObjectLost",
    "ObjectRef",
    "PayloadTooLarge",
    "PlacementGroup",
    "PlacementInfeasible",
    "RemoteError",
    "Retry",
    "Settings",
    "StoreFull",
    "Stream",
    "TaskNotFound",
    "Timer",
    "TooManyPending",
    "UntrustedPayload",
    "WorkerDied",
    "actor",
    "ask",
    "backpressure",
    "deadline",
    "ref",
    "step",
    "task",
    "tell",
]

# Public classes are pickled and shown by their public name, wherever their file is. Errors keep their name on the wire.
for _class in (Call, Future, Hub, ObjectRef, PlacementGroup, Retry, Settings, Stream, Timer):
    _class.__module__ = __name__
