"""Placement groups as users hold them, and the part of `Hub` that manages groups and nodes."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from actorhub.actors.service import stub
from actorhub.control_api.client import control_client, unwrap
from actorhub.control_api.events import GroupRequested
from actorhub.control_api.info import GroupInfo
from actorhub.control_api.requirements import Bundle
from actorhub.control_api.services import PAGE_ENTRIES, NodeService
from actorhub.control_api.specs import PlacementGroupSpec, Strategy
from actorhub.core.addressing import new_id
from actorhub.errors import ActorHubError, ActorNotFound, CallTimeout
from actorhub.hub.options import Options
from actorhub.messaging.context import deadline
from actorhub.messaging.session import Session

# Seconds between two checks whether a group is reserved, at first and at most.
MIN_POLL_SECONDS = 0.02
MAX_POLL_SECONDS = 0.5

# Seconds in which a node must confirm that it drains.
NO_NODES_WARNING_SECONDS = 10.0


class PlacementGroup:
    """Bundles of resources that are reserved together; actors run in one by `hub.options(placement=group[0])`.

    It may be passed to other actors and tasks, which spawn in it; `hub.remove` ends it.
    """

    def __init__(self, session: Session, plan: PlacementGroupSpec) -> None:
        self._session = session
        self._plan = plan

    @property
    def id(self) -> str:
        return self._plan.group_id

    @property
    def name(self) -> str | None:
        return self._plan.name

    def __len__(self) -> int:
        return len(self._plan.bundles)

    def __iter__(self) -> Iterator[Bundle]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Bundle:
        """The bundle with this index, for `hub.options(placement=...)`.

        Raises:
            IndexError: the group has no such bundle.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self!r} has bundles 0 to {count - 1}, and no {index}")
        return Bundle(group=self.id, index=index % count)

    async def ready(self, timeout: float | None = None) -> GroupInfo:
        """Wait until all bundles are reserved. Actors may be spawned before: they begin when the group is reserved.

        Raises:
            TimeoutError: it is not reserved after `timeout` seconds; the message says what it waits for.
            ActorHubError: it was removed.
        """
        pause, info = MIN_POLL_SECONDS, await self._look()
        try:
            async with asyncio.timeout(timeout):
                while not info.is_ready:
                    await asyncio.sleep(pause)
                    pause, info = min(2 * pause, MAX_POLL_SECONDS), await self._look()
        except TimeoutError as exc:
            raise TimeoutError(f"{self!r} is not ready after {timeout} s; it waits for {info.waits_for}") from exc
        return info

    async def _look(self) -> GroupInfo:
        info = await control_client(self._session).group(self.id)
        if info is None:
            raise ActorHubError(f"{self!r} was removed; create another with hub.placement_group")
        return info

    def __repr__(self) -> str:
        return f"<placement group {self.name or self.id} of {len(self)} bundles, {self._plan.strategy}>"


class PlacementApi(ABC):
    """The part of `Hub` that creates, lists and removes placement groups, and drains nodes."""

    _options: Options
    _owner: str | None

    @abstractmethod
    def _open_session(self) -> Session: ...

    async def placement_group(
        self, bundles: Sequence[Mapping[str, float]], *, strategy: Strategy = "PACK", name: str | None = None
    ) -> PlacementGroup:
        """Reserve resources together: all bundles or none. Returns when control has accepted the group.

        `await group.ready()` waits until all of it is reserved; actors in it wait for that by themselves. The group
        ends with its session, as actors do, unless it was created by `hub.options(lifetime="detached")`; `remove` ends
        it before. Bundles on a dead node are reserved again elsewhere.

        Args:
            bundles: resources of each bundle, such as `[{"cpu": 1}, {"cpu": 1, "gpu": 1}]`.
            strategy: "PACK" on as few nodes as possible, "SPREAD" on as many as possible, "STRICT_PACK" all on one,
                "STRICT_SPREAD" each on its own.
            name: unique among the placement groups of the namespace.

        Raises:
            NameTaken: another placement group of the namespace has the name.
            PlacementInfeasible: it could never fit, were all nodes empty.
            pydantic.ValidationError: a bundle is empty, an amount is invalid, or the strategy is unknown.
        """
        session, options = self._open_session(), self._options
        plan = PlacementGroupSpec(
            group_id=f"group-{new_id(10)}",
            namespace=options.namespace,
            name=name or options.name,
            bundles=[dict(bundle) for bundle in bundles],
            strategy=strategy,
            lifetime=options.lifetime,
            owner=self._owner or session.id,
        )
        session.owns_actors = True
        asked = GroupRequested(plan=plan, get_if_exists=options.get_if_exists)
        return PlacementGroup(session, unwrap(await control_client(session).make_group(asked)))

    async def remove(self, group: PlacementGroup) -> bool:
        """End a placement group and free its resources. False if it did not exist any more.

        Its actors end; its tasks fail with PlacementInfeasible and are kept as dead letters.
        """
        return await control_client(self._open_session()).remove_group(group.id)

    async def groups(self, *, all_namespaces: bool = False) -> list[GroupInfo]:
        """The placement groups of the namespace; `waits_for` says what an unreserved group waits for."""
        namespace = None if all_namespaces else self._options.namespace
        control, found = control_client(self._open_session()), list[GroupInfo]()
        while True:
            page = await control.groups(namespace, found[-1].id if found else None)
            found += page
            if len(page) < PAGE_ENTRIES:
                return found

    async def drain(self, node: str) -> None:
        """Drain a node, as SIGTERM does. Returns when the node has been told; `nodes` lists it until it is gone.

        It takes nothing new, its actors and bundles move elsewhere, and running calls may take `drain_timeout` to end.

        Raises:
            ActorHubError: no such node exists, or it does not reply in 10 s; then it is not told later either.
        """
        session = self._open_session()
        try:
            with deadline(NO_NODES_WARNING_SECONDS):
                await stub(session, session.names.node(node), NodeService).drain()
        except CallTimeout as exc:
            silent = f"node {node!r} does not answer: it is gone, or cannot reach the broker"
            raise ActorHubError(f"{silent}; its own log says more, if it still runs") from exc
        except ActorNotFound as exc:
            known = ", ".join(sorted(each.id for each in await control_client(session).nodes())) or "none"
            raise ActorHubError(f"there is no node {node!r}; there are: {known}") from exc
