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
from actorhub.control_api.services import PAGE, NodeService
from actorhub.control_api.specs import PlacementGroupSpec, Strategy
from actorhub.core.addressing import new_id
from actorhub.errors import ActorHubError, ActorNotFound, CallTimeout
from actorhub.hub.options import Options
from actorhub.messaging.context import deadline
from actorhub.messaging.session import Session

FIRST_LOOK = 0.02  # seconds between looks whether it is reserved, at first
LAST_LOOK = 0.5

PATIENCE = 10.0  # seconds for a node to hear that it shall end


class PlacementGroup:
    """Bundles of resources that are reserved together. `group[0]` is where an actor may go: `hub.options(placement=group[0])`.

    It may be passed on to whoever shall spawn in it; `hub.remove` ends it.
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
        """Raises:
        IndexError: it has no such bundle.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"{self!r} has bundles 0 to {count - 1}, and no {index}")
        return Bundle(group=self.id, index=index % count)

    async def ready(self, timeout: float | None = None) -> GroupInfo:
        """Returns when all of it is reserved, which actors in it need not wait for: they begin when it is.

        Raises:
            TimeoutError: it is not, after `timeout` seconds; the message says what it waits for.
            ActorHubError: it was removed.
        """
        pause, info = FIRST_LOOK, await self._look()
        try:
            async with asyncio.timeout(timeout):
                while not info.is_ready:
                    await asyncio.sleep(pause)
                    pause, info = min(2 * pause, LAST_LOOK), await self._look()
        except TimeoutError as exc:
            raise TimeoutError(f"{self!r} is not ready after {timeout} s; it waits for {info.waits_for}") from exc
        return info

    async def _look(self) -> GroupInfo:
        info = await control_client(self._session).group(self.id)
        if info is None:
            raise ActorHubError(f"{self!r} was removed; make another with hub.placement_group")
        return info

    def __repr__(self) -> str:
        return f"<placement group {self.name or self.id} of {len(self)} bundles, {self._plan.strategy}>"


class PlacementApi(ABC):
    """The part of `Hub` that makes, lists and removes placement groups, and has nodes end."""

    _options: Options
    _owner: str | None

    @abstractmethod
    def _open_session(self) -> Session: ...

    async def placement_group(
        self, bundles: Sequence[Mapping[str, float]], *, strategy: Strategy = "PACK", name: str | None = None
    ) -> PlacementGroup:
        """Reserve resources together: all bundles or none. Returns when control has taken it up; `await group.ready()` waits
        until all of it is reserved, and actors in it wait for that by themselves.

        - `bundles`: what each asks for, such as `[{"cpu": 1}, {"cpu": 1, "gpu": 1}]`.
        - `strategy`: "PACK" on as few nodes as can be, "SPREAD" on as many, "STRICT_PACK" all on one, "STRICT_SPREAD" each on
          its own.

        It ends with its session, as actors do, unless `hub.options(lifetime="detached")` made it; `remove` ends it before. What
        a dead node had of it is reserved again elsewhere.

        Raises:
            NameTaken: another placement group of the namespace has the name.
            PlacementInfeasible: it could never fit, were all nodes empty.
            pydantic.ValidationError: a bundle is empty, an amount is no amount, or the strategy is unknown.
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
        """End a placement group: its actors end, its tasks fail with PlacementInfeasible and are kept as dead letters, and what
        it reserved is free. False where it was gone already."""
        return await control_client(self._open_session()).remove_group(group.id)

    async def groups(self, *, all_namespaces: bool = False) -> list[GroupInfo]:
        """The placement groups of the namespace, with what those wait for that are not reserved."""
        namespace = None if all_namespaces else self._options.namespace
        control, found = control_client(self._open_session()), list[GroupInfo]()
        while True:
            page = await control.groups(namespace, found[-1].id if found else None)
            found += page
            if len(page) < PAGE:
                return found

    async def drain(self, node: str) -> None:
        """Have a node end in order, as SIGTERM does: it takes nothing new, its actors and bundles go elsewhere, what runs may
        end for `drain_timeout`. Returns when it has been told; `nodes` has it until it is gone.

        Raises:
            ActorHubError: there is no such node, or it does not answer in 10 s; then it is not told later either.
        """
        session = self._open_session()
        try:
            with deadline(PATIENCE):
                await stub(session, session.names.node(node), NodeService).drain()
        except CallTimeout as exc:
            silent = f"node {node!r} does not answer: it is gone, or cannot reach the broker"
            raise ActorHubError(f"{silent}; its own log says more, if it still runs") from exc
        except ActorNotFound as exc:
            known = ", ".join(sorted(each.id for each in await control_client(session).nodes())) or "none"
            raise ActorHubError(f"there is no node {node!r}; there are: {known}") from exc
