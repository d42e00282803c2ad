"""Port to the directory of actors, which control keeps: mailboxes that are created on first use, and why an actor is
gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from actorhub.broker import Outcome
from actorhub.core.addressing import ActorAddress, QueueNames
from actorhub.errors import ActorHubError, ActorNotFound, MailboxFull

log = logging.getLogger(__name__)

DIRECTORY_TIMEOUT_SECONDS = 5.0
"""Time in which the directory tells why an actor is gone."""


class Directory(Protocol):
    """Directory of actors, as a session uses it; each member of a cluster has it from control."""

    async def ensure_mailbox(self, address: ActorAddress) -> None:
        """Create the mailbox of a keyed actor's shard, unless it exists.

        Raises:
            ActorHubError: the mailbox cannot be created, and why.
        """
        ...

    async def reason_gone(self, address: ActorAddress, label: str) -> ActorHubError:
        """The error for a caller whose message found no queue. `label` names the method that was called.

        Raises:
            ActorHubError, TimeoutError: the directory does not reply.
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


async def not_stored_error(
    directory: Directory, names: QueueNames, address: ActorAddress, label: str, outcome: Outcome
) -> ActorHubError:
    """The error for the sender of a message that the broker has not stored.

    Args:
        directory: tells why an actor is gone.
        names: of the cluster's queues.
        address: where the message was sent.
        label: names the method that was called.
        outcome: REFUSED by a full mailbox, or UNROUTABLE.
    """
    who = address.name or address.actor_id
    if outcome is Outcome.REFUSED:
        return MailboxFull(
            f"{label}: the mailbox of {who} is full; send less, or wait for room with `with backpressure():`"
        )
    if not address.is_system:
        try:
            async with asyncio.timeout(DIRECTORY_TIMEOUT_SECONDS):
                return await directory.reason_gone(address, label)
        except (TimeoutError, ActorHubError):
            log.debug("control does not say why %s is gone", address.actor_id, exc_info=True)
    if address.queue == names.control:
        return ActorNotFound(
            f"no node has run yet in the cluster {names.prefix!r} on this broker; start one with `actorhub node MODULE`"
        )
    return ActorNotFound(f"{label}: there is no actor {who} in {address.namespace!r}")
