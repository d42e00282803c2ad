"""Port to the directory of actors, which control keeps: mailboxes that are created on first use, and why an actor is gone."""

from __future__ import annotations

from typing import Protocol

from actorhub.core.addressing import ActorAddress
from actorhub.errors import ActorHubError, ActorNotFound


class Directory(Protocol):
    """What a session asks about actors; each member of a cluster has it from control."""

    async def ensure_mailbox(self, address: ActorAddress) -> None:
        """Create the mailbox of a keyed actor's shard, unless it exists.

        Raises:
            ActorHubError: the mailbox cannot be created, and why.
        """
        ...

    async def reason_gone(self, address: ActorAddress, label: str) -> ActorHubError:
        """The error for a caller whose message found no queue. `label` names the method that was called.

        Raises:
            ActorHubError, TimeoutError: the directory does not answer.
        """
        ...


class NoDirectory(Directory):
    """Directory of a session outside any cluster: it knows no actor."""

    async def ensure_mailbox(self, address: ActorAddress) -> None:
        raise ActorNotFound(
            f"the mailbox of {address.class_name} cannot be created: this session belongs to no cluster"
        )

    async def reason_gone(self, address: ActorAddress, label: str) -> ActorHubError:
        return ActorNotFound(f"{label}: there is no actor {address.name or address.actor_id} in {address.namespace!r}")
