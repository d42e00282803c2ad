"""Options of a view of a hub, for actors, tasks and groups that are created, found or inspected through it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from actorhub.actors.spec import ActorOptions, ActorSpec
from actorhub.control_api.requirements import NO_REQUIREMENTS, Bundle, Requirements
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.addressing import new_id
from actorhub.core.resources import Resources
from actorhub.messaging.session import Session
from actorhub.tasks.task import HIGHEST_PRIORITY
from actorhub.wire.codec import by_value


class Options(BaseModel):
    """Options of a view of a hub; see `Hub.options`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    namespace: str = "default"
    get_if_exists: bool = False
    lifetime: Literal["session", "detached"] = "session"
    resources: Resources | None = None
    node: str | None = None
    labels: dict[str, str] = {}
    prefer: dict[str, str] = {}
    placement: Bundle | None = None
    max_restarts: int | None = None
    priority: int | None = Field(default=None, ge=0, le=HIGHEST_PRIORITY)
    delay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    catch_up: Literal["skip", "once", "all"] = "once"

    @property
    def place(self) -> Requirements:
        """Requirements of tasks, beside resources."""
        if not (self.node or self.labels or self.prefer or self.placement):
            return NO_REQUIREMENTS
        return Requirements(node=self.node, labels=self.labels, prefer=self.prefer, bundle=self.placement)

    def spawn_spec(
        self, spec: ActorSpec, session: Session, owner: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> SpawnSpec:
        """Spec of an actor with these options, for control.

        Args:
            spec: of the actor's class.
            session: signs what cannot travel as JSON.
            owner: the session or the actor with which it ends.
            args, kwargs: of its constructor.

        Raises:
            InvalidArguments, NotSerialisable, UntrustedPayload.
        """
        arguments, codec = spec.init.pack(args, kwargs, session.signer)
        changes = {"resources": self.resources, "max_restarts": self.max_restarts}
        given = {name: value for name, value in changes.items() if value is not None}
        chosen = ActorOptions.model_validate({**dict(spec.options), **given}) if given else spec.options
        word = "".join(letter for letter in spec.cls.__name__.lower() if letter.isalnum())[:30] or "actor"
        return SpawnSpec(
            actor_id=f"{word}-{new_id(10)}",
            namespace=self.namespace,
            name=self.name,
            class_name=spec.class_name,
            options=chosen,
            lifetime="detached" if chosen.durable else self.lifetime,
            owner=owner,
            arguments=arguments,
            codec=codec,
            code=session.signer.dumps(spec.cls, spec.class_name) if by_value(spec.cls) else None,
            node=self.node,
            labels=self.labels,
            prefer=self.prefer,
            bundle=self.placement,
        )
