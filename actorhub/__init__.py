"""Typed, fault-tolerant actors on RabbitMQ."""

from actorhub.actor import actor
from actorhub.call import Call, Stream
from actorhub.context import backpressure, deadline
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
from actorhub.future import Future
from actorhub.group import PlacementGroup
from actorhub.handle import ask, tell
from actorhub.hub import Hub
from actorhub.object_ref import ObjectRef
from actorhub.ref import ref
from actorhub.settings import Settings
from actorhub.step import step
from actorhub.task import Retry, task
from actorhub.timer import Timer

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
