"""The `@actor` decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from actorhub.actors.handle import handle_schema
from actorhub.actors.spec import SPEC, ActorOptions, registry, specify

T = TypeVar("T")


@overload
def actor(cls: type[T], /) -> type[T]: ...
@overload
def actor(
    *,
    durable: bool = False,
    shards: int | None = None,
    standby: bool = False,
    reads: tuple[str, ...] = (),
    concurrency: int = 1,
    reentrant: bool = False,
    isolation: Literal["shared", "process"] = "shared",
    max_restarts: int = 3,
    restart_window: float | None = None,
    max_redeliveries: int = 3,
    resources: dict[str, float] | None = None,
    mailbox_limit: int | None = None,
    on_error: Literal["keep", "restart"] = "keep",
) -> Callable[[type[T]], type[T]]: ...
def actor(cls: type | None = None, /, **options: Any) -> Any:
    """Make a class an actor class, and return the class itself.

    Public methods are messages; names with a leading underscore cannot be called from outside. `async def` methods run on
    the worker's event loop, `def` methods in a thread, generators stream their items.

    Args:
        cls: the class.
        durable: each message changes the state once, and its reply and its tells are sent once, whatever crashes. The state
            is the instance's attributes, or the fields of a pydantic model; a method that raises leaves it unchanged. The
            actor lives until it is killed. The class reads the state of earlier versions by `state_version` and
            `migrate(cls, state, from_version)`.
        shards: makes it a keyed class: `hub.at(cls, key)` is one of millions of instances, spread over this number of
            mailboxes. The constructor takes the key, or nothing. Another number of shards is another set of instances.
        standby: another worker, on another node if possible, waits to take over at the moment the broker loses the first.
            It reserves `resources` of its own.
        reads: names of methods that change no state and send no tells. Their replies are not kept in the journal: they
            report committed state, and a method whose reply was lost runs once more.
        concurrency: calls that one instance handles at once; 1 means one after the other, in order.
        reentrant: a call that returns to the actor in the chain of a waiting call runs instead of failing.
        isolation: "process" gives the instance a worker process of its own.
        max_restarts: times that a lost instance is restarted elsewhere before the actor is dead: in its whole life, or
            within any `restart_window` seconds. A durable actor is always restarted.
        restart_window: seconds; see `max_restarts`.
        max_redeliveries: times that a message may kill its worker before it becomes a dead letter.
        resources: resources that it reserves on its node, such as `{"gpu": 1}`.
        mailbox_limit: envelopes that may wait; beyond it a send fails with MailboxFull.
        on_error: "restart" creates a new instance after a method raised.

    Raises:
        TypeError: `cls` is not a class, or has no public method.
        pydantic.ValidationError: an option is unknown or out of range.
    """

    def decorate(cls: type) -> type:
        given = {name: value for name, value in options.items() if value is not None}
        spec = specify(cls, ActorOptions(**given))
        registry[spec.class_name] = spec
        setattr(cls, SPEC, spec)
        cls.__get_pydantic_core_schema__ = classmethod(handle_schema)  # type: ignore[attr-defined]
        return cls

    return decorate if cls is None else decorate(cls)
