"""Sharding of keyed classes: millions of instances behind a few mailboxes.

An instance is created when it is called; the mailbox of a shard when a client first calls an instance of that shard.
"""

from __future__ import annotations

from hashlib import blake2b

from actorhub.actors.spec import ActorSpec, registry
from actorhub.control_api.client import control_client, unwrap
from actorhub.control_api.events import SpawnRequested
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.addressing import ActorAddress, QueueNames
from actorhub.errors import ActorNotFound
from actorhub.messaging.session import Session
from actorhub.wire.codec import by_value


def shard_address(names: QueueNames, namespace: str, spec: ActorSpec, key: object) -> ActorAddress:
    """Address of the instance of a keyed class with this key.

    Raises:
        TypeError: the class is not keyed, or the key is not a string.
        ValueError: the key is empty.
    """
    shards = spec.options.shards
    if shards is None:
        raise TypeError(
            f"{spec.class_name} has no keys; decorate it with @actor(durable=True, shards=16), or use hub.spawn"
        )
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, and {key!r} is a {type(key).__name__}; give str(key)")
    if not key:
        raise ValueError("a key must not be empty; give the instance a name")
    plan = _plan(spec, namespace, _number(key.encode()) % shards)
    return plan.address(names).of(key)


async def ensure_shard_mailbox(session: Session, address: ActorAddress) -> None:
    """Create the mailbox of the shard that the address's instance belongs to, unless it exists.

    Raises:
        ActorNotFound: this process does not know the class.
        PlacementInfeasible: no node can ever run the shard.
    """
    spec = registry.get(address.class_name)
    if spec is None or spec.options.shards is None:
        raise ActorNotFound(f"{address.class_name} is not a keyed class that this process knows; import its module")
    plan = _plan(spec, address.namespace, int(address.actor_id.rpartition("-")[2]))
    if by_value(spec.cls):
        plan = plan.model_copy(update={"code": session.signer.dumps(spec.cls, spec.class_name)})
    unwrap(await control_client(session).spawn(SpawnRequested(plan=plan)))


def _plan(spec: ActorSpec, namespace: str, shard: int) -> SpawnSpec:
    """Plan of a shard's actor; each process derives the same id, without a call to control.

    Ids of actors are unique across namespaces.
    """
    word = "".join(letter for letter in spec.cls.__name__.lower() if letter.isalnum())[:30] or "actor"
    of = blake2b(f"{namespace} {spec.class_name}".encode(), digest_size=6).hexdigest()
    actor_id = f"{word}-{of}-{spec.options.shards}-{shard}"
    return SpawnSpec(
        actor_id=actor_id,
        namespace=namespace,
        class_name=spec.class_name,
        options=spec.options,
        lifetime="detached",
    )


def _number(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
