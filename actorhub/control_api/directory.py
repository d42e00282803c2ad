"""Sessions of a cluster's members: their directory of actors is the cluster's control."""

from __future__ import annotations

from actorhub.control_api.client import control_client, death_error
from actorhub.control_api.sharding import ensure_shard_mailbox
from actorhub.core.addressing import ActorAddress
from actorhub.errors import ActorHubError, ActorNotFound
from actorhub.messaging.connection import OnRetry
from actorhub.messaging.session import Session
from actorhub.settings import Settings


def cluster_session(settings: Settings, *, name: str = "hub", on_retry: OnRetry | None = None) -> Session:
    """Create the session, not yet open, of a hub, a node or a worker; they create theirs in no other way.

    Args:
        name: shown in the broker's list of connections.
        on_retry: called before each further try to reach the broker.
    """
    session = Session(settings, name=name, on_retry=on_retry)
    session.directory = ControlDirectory(session)
    return session


class ControlDirectory:
    """Directory of actors that control keeps, read over a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def ensure_mailbox(self, address: ActorAddress) -> None:
        await ensure_shard_mailbox(self._session, address)

    async def reason_gone(self, address: ActorAddress, label: str) -> ActorHubError:
        info = await control_client(self._session).describe(address.actor_id)
        actor = f"{address.class_name} {address.name or address.actor_id}"
        if info is None or info.state != "dead":
            return ActorNotFound(f"there is no actor {actor} in namespace {address.namespace!r}")
        return death_error(f"{actor} is dead: {info.last_error}", at_birth=info.died_at_birth)
