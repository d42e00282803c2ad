"""Errors of ActorHub.

    ActorHubError
    ├── BrokerUnavailable         the broker cannot be reached, or refuses the password or the virtual host
    ├── ActorNotFound             no such actor, or no such name
    ├── ActorDied                 the actor ended for good; the message has the cause
    │   └── ActorInitFailed       its constructor raised
    ├── CallTimeout               the call's deadline passed (also a TimeoutError)
    ├── CallCancelled             the call was cancelled
    ├── DeadlockDetected          the call reached an actor that waits in the call's own chain
    ├── MailboxFull               the actor's mailbox is at its limit
    ├── TooManyPending            the hub waits for `max_pending` replies already
    ├── InvalidArguments          the arguments do not fit the method's annotations; nothing was sent
    ├── InvalidResult             the method's result does not fit its return annotation
    ├── MethodNotFound            the actor has no public method of that name
    ├── TaskNotFound              the node that took the task does not know its function
    ├── WorkerDied                the task killed its worker more often than `max_redeliveries` allows
    ├── InvalidEnvelope           the message is not in the wire format
    ├── PayloadTooLarge           the message is larger than the broker accepts
    ├── UntrustedPayload          the pickle lacks the cluster's signature
    ├── NotSerialisable           neither JSON nor pickle can carry the value; names the part that cannot
    ├── NameTaken                 another live actor has the name
    ├── PlacementInfeasible       no node can ever run it, or its placement group was removed
    ├── ObjectLost                the object is missing in its store; names the node
    ├── StoreFull                 the node's object store has no room, neither in memory nor on disk
    ├── LetterNotFound            no dead letter has the id
    ├── HubClosed                 the hub was closed before, or while, it was used
    └── RemoteError               a remote exception whose type cannot be imported here

An exception of user code reaches the caller as its own type if the caller can import it. Its notes have the remote traceback.
"""

from __future__ import annotations


class ActorHubError(Exception):
    """Base class of all errors that ActorHub raises on purpose."""


class BrokerUnavailable(ActorHubError):
    """The broker cannot be reached, or refuses the password or the virtual host; the message says which."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
        """True if another attempt would fail too: the credentials or the virtual host are wrong."""


class ActorNotFound(ActorHubError):
    """The actor does not exist: it never had that name, or it ended too long ago to be on record."""


class ActorDied(ActorHubError):
    """The actor ended and will not be restarted; the message has the cause."""


class ActorInitFailed(ActorDied):
    """The actor's constructor, or `started`, raised."""


class CallTimeout(ActorHubError, TimeoutError):
    """The deadline of a call passed before its reply came. The call may still have taken effect."""


class CallCancelled(ActorHubError):
    """The call was cancelled before it ended."""


class DeadlockDetected(ActorHubError):
    """A call reached an actor that waits for a reply in the same chain of calls; the message names the cycle."""


class MailboxFull(ActorHubError):
    """The actor's mailbox has as many messages as its `mailbox_limit` allows."""


class TooManyPending(ActorHubError):
    """The hub waits for `max_pending` replies already."""


class InvalidArguments(ActorHubError, TypeError):
    """The arguments do not fit the annotations; the message is pydantic's report with the path of each field."""


class InvalidResult(ActorHubError, TypeError):
    """The method's result does not fit its return annotation."""


class MethodNotFound(ActorHubError, AttributeError):
    """The actor has no public method of that name."""


class TaskNotFound(ActorHubError):
    """The node that took the task has not imported the function's module."""


class WorkerDied(ActorHubError):
    """The task killed its worker more often than its `max_redeliveries` allows; it is in the dead letters."""


class InvalidEnvelope(ActorHubError, ValueError):
    """A message's body or properties are not in the wire format."""


class PayloadTooLarge(ActorHubError, ValueError):
    """A message would be larger than the broker accepts."""


class UntrustedPayload(ActorHubError):
    """A pickled payload has no signature, or a wrong one."""


class NotSerialisable(ActorHubError, TypeError):
    """Neither JSON nor pickle can carry a value; the message names the part of it that cannot be serialised."""


class NameTaken(ActorHubError):
    """Another live actor of the namespace has the name."""


class PlacementInfeasible(ActorHubError):
    """No node can ever run the actor, task or group, or a task's placement group was removed.

    The message has the requested resources and the best that a node offers.
    """


class ObjectLost(ActorHubError):
    """An object is missing in the store that should have it; the message names the node and the object."""


class StoreFull(ActorHubError):
    """An object store has no room for an object, neither in memory nor on disk; the message says how much is in use."""


class LetterNotFound(ActorHubError, LookupError):
    """No dead letter of the namespace has the id: it was purged, or dropped in favour of newer ones."""


class HubClosed(ActorHubError):
    """The hub is closed: it sends nothing more, and pending calls fail with this error."""


class RemoteError(ActorHubError):
    """A remote exception of a type that cannot be imported here, with its message and remote traceback."""

    def __init__(self, message: str, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        """The original type, as `module:qualified.name`."""
