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
    """Makes the class an actor class, and returns the class itself.

    Public methods are messages; names with a leading underscore cannot be called from outside. `async def` methods run on
    the worker's event loop, `def` methods in a thread, generators stream their items.

    - `durable`: each message changes the state once, and its answer and its tells go out once, whatever crashes. The state is
      the instance's attributes, or the fields of a pydantic model; a method that raises leaves it as it was. It lives until it
      is killed. `state_version` and `migrate(cls, state, from_version)` of the class read the state of former versions.
    - `shards`: makes it a keyed class: `hub.at(cls, key)` is one of millions of instances, spread over so many mailboxes. The
      constructor takes the key, or nothing. Another number of shards is another set of instances.
    - `standby`: another worker, on another node where there is one, waits to go on in the moment in which the broker loses
      the first. It takes `resources` of its own.
    - `reads`: names of methods that change nothing and tell nobody anything. Their answers are not kept in the journal; they
      say what is committed, and a method whose answer was lost on its way runs once more.
    - `concurrency`: how many calls one instance handles at once; 1 means one after the other, in order.
    - `reentrant`: a call that comes back to the actor in the chain of one that waits runs instead of failing.
    - `isolation`: "process" gives the instance a worker process of its own.
    - `max_restarts`: how often a lost instance is made anew elsewhere before it is dead: in its life, or in any
      `restart_window` seconds. A durable one is always made anew.
    - `max_redeliveries`: how often a message may kill its worker before it goes to the dead letters instead.
    - `resources`: what it reserves on its node, such as `{"gpu": 1}`.
    - `mailbox_limit`: how many envelopes may wait; past it a send fails with MailboxFull.
    - `on_error`: "restart" makes the instance anew after a method raised.

    Raises:
        TypeError: it is not a class, or has no public method.
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
