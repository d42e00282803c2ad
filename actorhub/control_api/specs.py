"""Specifications of actors and placement groups, as clients ask for them, and activations of actors."""

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
    """Base of all messages and rows of control."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_bytes="base64",
        val_json_bytes="base64",
        # A validator is built when it is first used: a client uses few of the models.
        defer_build=True,
    )


class SpawnSpec(Model):
    """Everything that is needed to start an actor on any node, any number of times."""

    actor_id: str
    namespace: str
    name: str | None = None
    """A name that no other living actor of the namespace has."""
    class_name: str
    options: ActorOptions
    lifetime: Lifetime = "session"
    """With "session" it ends with its owner."""
    owner: str = ""
    """Id of the session that spawned it, or `actor:{id}` if an actor did."""
    arguments: bytes = b"{}"
    """Arguments of its constructor."""
    codec: Codec = Codec.JSON
    """Encoding of `arguments`."""
    code: bytes | None = None
    """Its class by value, signed; None if nodes import it."""
    node: str | None = None
    """The only node that may run it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels that its node must have."""
    prefer: dict[str, str] = Field(default_factory=dict)
    """Labels that its node should have."""
    bundle: Bundle | None = None
    """The bundle of a placement group that it runs in."""

    @property
    def outline(self) -> SpawnSpec:
        """The same without arguments and code, which only a worker needs."""
        return self.model_copy(update={"arguments": b"", "code": None})

    def queue(self, names: QueueNames) -> str:
        """Name of its mailbox queue."""
        name = names.durable if self.options.durable else names.actor
        return name(self.namespace, self.actor_id)

    def queues(self, names: QueueNames, retention: int) -> list[Queue]:
        """Queues to declare before a client sends to it. `retention` is the size in bytes of a journal."""
        limit, queue = self.options.mailbox_limit, self.queue(names)
        if not self.options.durable:
            return [actor_mailbox(queue, limit)]
        journal = names.journal(self.namespace, self.actor_id)
        return [journal_stream(journal, retention), durable_inbox(queue, limit)]

    def address(self, names: QueueNames) -> ActorAddress:
        """Address of the actor, for handles."""
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
    """A placement group, as a client asks for it."""

    group_id: str
    namespace: str
    name: str | None = None
    """A name that no other group of the namespace has."""
    bundles: list[Resources] = Field(min_length=1)
    """Resources that are reserved together, each bundle on one node."""
    strategy: Strategy = "PACK"
    lifetime: Lifetime = "session"
    """With "session" it ends with its owner."""
    owner: str = ""
    """Id of the session that asked for it, or `actor:{id}` if an actor did."""

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
    """An instance of an actor that a worker hosts, or is to start."""

    plan: SpawnSpec
    incarnation: int
    """Number of the actor's start; of two instances of one actor, the one with the higher number counts."""
    restarts: int
    """Restarts of the actor so far."""
