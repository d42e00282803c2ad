"""Actors and placement groups as somebody asked for them, and where an actor is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from actorhub.actors.spec import ActorOptions
from actorhub.broker import Queue
from actorhub.control_api.requirements import Bundle
from actorhub.core.addressing import ActorAddress, QueueNames
from actorhub.core.resources import Resources
from actorhub.messaging.topology import actor_mailbox, durable_inbox, journal_stream
from actorhub.wire.envelope import Codec

Lifetime = Literal["session", "detached"]
Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


class Model(BaseModel):
    """What control hears, orders, keeps and tells."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        defer_build=True,  # when it is first used: a client uses few of them
    )


class SpawnSpec(Model):
    """All that is needed to start an actor anywhere, again and again. `code` is its class by value, signed."""

    actor_id: str
    namespace: str
    name: str | None = None
    class_name: str
    options: ActorOptions
    lifetime: Lifetime = "session"
    owner: str = ""
    arguments: bytes = b"{}"
    codec: Codec = Codec.JSON
    code: bytes | None = None
    node: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    prefer: dict[str, str] = Field(default_factory=dict)
    bundle: Bundle | None = None

    @property
    def outline(self) -> SpawnSpec:
        """Without what only its worker needs."""
        return self.model_copy(update={"arguments": b"", "code": None})

    def queue(self, names: QueueNames) -> str:
        """Where its messages wait."""
        name = names.durable if self.options.durable else names.actor
        return name(self.namespace, self.actor_id)

    def queues(self, names: QueueNames, retention: int) -> list[Queue]:
        """What there must be at the broker before anybody sends to it."""
        limit, queue = self.options.mailbox_limit, self.queue(names)
        if not self.options.durable:
            return [actor_mailbox(queue, limit)]
        journal = names.journal(self.namespace, self.actor_id)
        return [journal_stream(journal, retention), durable_inbox(queue, limit)]

    def ticket(self, names: QueueNames) -> ActorAddress:
        """What a handle of it needs."""
        return ActorAddress(
            queue=self.queue(names),
            actor_id=self.actor_id,
            namespace=self.namespace,
            class_name=self.class_name,
            name=self.name,
            limited=self.options.mailbox_limit is not None,
            durable=self.options.durable,
        )


class PlacementGroupSpec(Model):
    """A placement group, as somebody asked for it."""

    group_id: str
    namespace: str
    name: str | None = None
    bundles: list[Resources] = Field(min_length=1)
    strategy: Strategy = "PACK"
    lifetime: Lifetime = "session"
    owner: str = ""

    @field_validator("bundles")
    @classmethod
    def _none_is_empty(cls, bundles: list[dict[str, float]]) -> list[dict[str, float]]:
        for index, bundle in enumerate(bundles):
            if not bundle:
                raise ValueError(
                    f"bundle {index} asks for nothing; give it resources, such as {{'cpu': 1}}, or leave it out"
                )
        return bundles


class Activation(Model):
    """An actor that a worker hosts, or is about to. Of two incarnations of one actor, the higher one counts."""

    plan: SpawnSpec
    incarnation: int
    restarts: int
