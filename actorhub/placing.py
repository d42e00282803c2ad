"""What a hub does with placement groups and with nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from actorhub.address import new_id
from actorhub.context import deadline
from actorhub.control.client import control_of, granted
from actorhub.control.desks import PAGE, NodeDesk
from actorhub.control.events import GroupAsked
from actorhub.control.infos import GroupInfo
from actorhub.control.plans import GroupPlan, Strategy
from actorhub.errors import ActorHubError, ActorNotFound, CallTimeout
from actorhub.group import PlacementGroup
from actorhub.options import Options
from actorhub.service import stub
from actorhub.session import Session

PATIENCE = 10.0  # seconds for a node to hear that it shall end


class Placing(ABC):
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
        plan = GroupPlan(
            group_id=f"group-{new_id(10)}",
            namespace=options.namespace,
            name=name or options.name,
            bundles=[dict(bundle) for bundle in bundles],
            strategy=strategy,
            lifetime=options.lifetime,
            owner=self._owner or session.id,
        )
        session.owns_actors = True
        asked = GroupAsked(plan=plan, get_if_exists=options.get_if_exists)
        return PlacementGroup(session, granted(await control_of(session).make_group(asked)))

    async def remove(self, group: PlacementGroup) -> bool:
        """End a placement group: its actors end, its tasks fail with PlacementInfeasible and are kept as dead letters, and what
        it reserved is free. False where it was gone already."""
        return await control_of(self._open_session()).remove_group(group.id)

    async def groups(self, *, all_namespaces: bool = False) -> list[GroupInfo]:
        """The placement groups of the namespace, with what those wait for that are not reserved."""
        namespace = None if all_namespaces else self._options.namespace
        control, found = control_of(self._open_session()), list[GroupInfo]()
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
                await stub(session, session.names.node(node), NodeDesk).drain()
        except CallTimeout as exc:
            silent = f"node {node!r} does not answer: it is gone, or cannot reach the broker"
            raise ActorHubError(f"{silent}; its own log says more, if it still runs") from exc
        except ActorNotFound as exc:
            known = ", ".join(sorted(each.id for each in await control_of(session).nodes())) or "none"
            raise ActorHubError(f"there is no node {node!r}; there are: {known}") from exc
