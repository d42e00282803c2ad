"""The tree of errors.

    ActorHubError
    ├── BrokerUnavailable         no broker there, wrong password, wrong vhost; the message says which
    ├── ActorNotFound             no such actor, or no such name
    ├── ActorDied                 the actor is gone; the message carries the last cause
    │   └── ActorInitFailed       its constructor raised
    ├── CallTimeout               the deadline passed (also a TimeoutError)
    ├── CallCancelled             somebody cancelled the call
    ├── DeadlockDetected          the call came back to an actor that waits in its chain
    ├── MailboxFull               the actor's mailbox is at its limit
    ├── TooManyPending            this hub already waits for as many answers as it may
    ├── InvalidArguments          they do not fit the method's annotations; nothing was sent
    ├── InvalidResult             the method's result does not fit its return annotation
    ├── MethodNotFound            the actor has no public method of that name
    ├── TaskNotFound              the node that took the task does not know its function
    ├── WorkerDied                the task killed its worker too often
    ├── InvalidEnvelope           a message that is not of the wire format
    ├── PayloadTooLarge           the broker would refuse a message of that size
    ├── UntrustedPayload          a pickle without the cluster's signature
    ├── NotSerialisable           a value that neither JSON nor pickle can carry; names the attribute
    ├── NameTaken                 another live actor has the name
    ├── PlacementInfeasible       no node can ever run it, or what it was to run in was removed
    ├── ObjectLost                the object is not, or no longer, in its store; names the node
    ├── StoreFull                 a node's object store has no room for it, neither in memory nor on disk
    ├── LetterNotFound            no dead letter has the id
    ├── HubClosed                 the hub was closed before, or while, it was used
    └── RemoteError               an exception whose own type cannot be imported here

A user's exception comes back as its own type where the caller can import it; the remote traceback is in its notes.
"""

from __future__ import annotations


class ActorHubError(Exception):
    """The root of every error that the library raises on purpose."""


class BrokerUnavailable(ActorHubError):
    """The broker cannot be reached or refuses the credentials or the virtual host.

    `permanent` is True where trying again is of no use: the credentials or the virtual host are wrong.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class ActorNotFound(ActorHubError):
    """There is no such actor: it never existed under that name, or ended too long ago to be remembered."""


class ActorDied(ActorHubError):
    """The actor ended and will not come back; the message says by what."""


class ActorInitFailed(ActorDied):
    """The actor's constructor, or `started`, raised."""


class CallTimeout(ActorHubError, TimeoutError):
    """The deadline of a call passed before its answer came. The call may still have taken effect."""


class CallCancelled(ActorHubError):
    """The call was cancelled before it ended."""


class DeadlockDetected(ActorHubError):
    """A call came back to an actor that is itself waiting in the call's chain; the message names the cycle."""


class MailboxFull(ActorHubError):
    """The actor's mailbox holds as many envelopes as its `mailbox_limit` allows."""


class TooManyPending(ActorHubError):
    """The hub waits for `max_pending` answers already."""


class InvalidArguments(ActorHubError, TypeError):
    """The arguments do not fit the annotations; the message is pydantic's report with each field's path."""


class InvalidResult(ActorHubError, TypeError):
    """What the method returned does not fit its return annotation."""


class MethodNotFound(ActorHubError, AttributeError):
    """The actor has no public method of that name."""


class TaskNotFound(ActorHubError):
    """The node that took the task has not imported the function's module."""


class WorkerDied(ActorHubError):
    """The task killed its worker more often than its `max_redeliveries` allows; it is in the dead letters."""


class InvalidEnvelope(ActorHubError, ValueError):
    """A message's body or properties are not of the wire format."""


class PayloadTooLarge(ActorHubError, ValueError):
    """One message would be larger than the broker takes."""


class UntrustedPayload(ActorHubError):
    """A pickled payload came without a signature, or with a wrong one."""


class NotSerialisable(ActorHubError, TypeError):
    """A value can travel neither as JSON nor as a pickle; the message names the part of it that cannot."""


class NameTaken(ActorHubError):
    """Another live actor of the namespace has the name."""


class PlacementInfeasible(ActorHubError):
    """No node can ever run what was asked for, and the message says what was asked and the best that there is; or a task was to
    run in a placement group that was removed."""


class ObjectLost(ActorHubError):
    """An object is not, or no longer, in the store that should have it; the message names the node and the object."""


class StoreFull(ActorHubError):
    """An object store has no room for an object, neither in memory nor on disk; the message says what is taken."""


class LetterNotFound(ActorHubError, LookupError):
    """No dead letter of the namespace has the id: it was purged, or so many came later that it made room for them."""


class HubClosed(ActorHubError):
    """The hub is closed: it can send nothing, and what it waited for will not come."""


class RemoteError(ActorHubError):
    """An exception of a type that cannot be imported here; its message and remote traceback are kept.

    `type_name` is the original type, as `module:qualified.name`.
    """

    def __init__(self, message: str, type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
